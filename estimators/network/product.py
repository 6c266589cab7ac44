"""Matrix products in single precision by whichever of torch's two libraries is faster here.

On a processor torch multiplies by MKL, which keeps to narrow vectors where the maker is not its own;
oneDNN, which torch brings too, takes the widest there are. Both round differently in the last digit.
What is to be differentiated stays with MKL: trainings have `estimators.network.kernel`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WIDE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
LEAST = 32  # rows and columns from which oneDNN's longer call pays


def affine(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return h W^T + b, as `torch.nn.functional.linear` does.

    Arguments:
        h: shape (rows, in).
        weight: W, shape (out, in).
        bias: b, shape (out,).
    """
    if not _suits(h, weight):
        return F.linear(h, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(h, weight, bias, "none", [], "")
    return result


def _suits(h: Tensor, weight: Tensor) -> bool:
    differentiated = torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad)
    return (
        WIDE
        and not differentiated
        and plain(h)
        and weight.dtype is torch.float32
        and min(*h.shape, *weight.shape) >= LEAST
    )


def plain(h: Tensor) -> bool:
    """Say whether h is a matrix in single precision on a processor, and nobody but autograd looks on."""
    return (
        not torch.compiler.is_compiling()
        and h.ndim == 2
        and h.dtype is torch.float32
        and h.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )
