"""Matrix products in single precision by whichever of torch's two libraries is faster here.

On a processor torch multiplies by MKL, which takes narrow vectors on processors of other makers than
Intel; oneDNN, which torch contains too, takes the widest there are. They differ by rounding in the last
digit. Products that are differentiated stay with MKL: trainings have `estimators.network.fused`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from estimators.network.torch_private import function_transforms_are_active, onednn_linear

ONEDNN_IS_FASTER = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and onednn_linear is not None
)
MIN_SIZE = 32  # rows and columns from which oneDNN's longer call pays


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return h W^T + b, as `torch.nn.functional.linear` does.

    Arguments:
        h: shape (rows, in).
        weight: W, shape (out, in).
        bias: b, shape (out,).
    """
    if onednn_linear is None or not _onednn_applies(h, weight):
        return F.linear(h, weight, bias)
    return onednn_linear(h, weight, bias)


def _onednn_applies(h: Tensor, weight: Tensor) -> bool:
    differentiated = torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad)
    return (
        ONEDNN_IS_FASTER
        and not differentiated
        and is_single_precision_matrix(h)
        and weight.dtype is torch.float32
        and min(*h.shape, *weight.shape) >= MIN_SIZE
    )


def is_single_precision_matrix(h: Tensor) -> bool:
    """Say whether h is a matrix in single precision on a processor, and nobody but autograd looks on."""
    return (
        not torch.compiler.is_compiling()
        and h.ndim == 2
        and h.dtype is torch.float32
        and h.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not function_transforms_are_active()
    )
