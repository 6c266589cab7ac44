"""Matrix products in single precision by whichever of torch's two libraries is faster here.

On a processor torch multiplies by MKL, which keeps to narrow vectors where the maker is not its own;
oneDNN, which torch brings too, takes the widest there are. Both round differently in the last digit.
"""

from __future__ import annotations

from typing import Any

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
    if torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad):
        return _Affine.apply(h, weight, bias)
    return _wide(h, weight, bias)


def _suits(h: Tensor, weight: Tensor) -> bool:
    return (
        WIDE
        and not torch.compiler.is_compiling()
        and h.dtype is weight.dtype is torch.float32
        and h.device.type == "cpu"
        and h.ndim == 2
        and min(*h.shape, *weight.shape) >= LEAST
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _wide(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(h, weight, bias, "none", [], "")
    return result


class _Affine(torch.autograd.Function):
    """dL/dh = d W,   dL/dW = d^T h,   dL/db = sum over the rows of d = dL/d(output)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight)
        return _wide(h, weight, bias)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        h, weight = ctx.saved_tensors
        to_h, to_weight, to_bias = ctx.needs_input_grad
        return (
            affine(d, weight.t()) if to_h else None,
            affine(d.t(), h.t()) if to_weight else None,
            d.sum(0) if to_bias else None,
        )
