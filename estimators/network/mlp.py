"""The free-form residual perceptron."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from estimators.estimator import within
from estimators.network.base import Comparison, FreeForm
from estimators.network.product import affine


class ResidualMLP(FreeForm):
    """Residual SiLU layers on v = (noisy parameter, context, time); the output starts at zero.

        h_0 = silu(W_0 v + b_0),   h_k = h_{k-1} + m_k silu(W_k h_{k-1} + b_k),   out = W h_K + b

    Arguments:
        size, context, time: D, C and F.
        width: units in a layer.
        depth: number K of residual layers.
        dropout: share of a layer's units that a mask m_k silences.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        within("width", width, 1, integer=True)
        within("depth", depth, 0, integer=True)
        within("dropout", dropout, 0, 0.99)
        super().__init__(size, context, time)
        self.first = nn.Linear(size + context + time, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, size)
        self.keep = 1.0 - dropout
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def floats(self) -> int:
        return self.first.in_features + 3 * self.first.out_features

    def masks(self, rows: int, device: torch.device) -> Tensor | None:
        """Return fresh masks (K, rows, width)."""
        if not self.training or self.keep == 1.0:
            return None
        shape = (len(self.layers), rows, self.first.out_features)
        return torch.rand(shape, device=device).lt_(self.keep).div_(self.keep)

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        h = F.silu(self.first(torch.cat([noisy, context, time], dim=-1)))
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            update = F.silu(affine(h, layer.weight, layer.bias))
            h = h + update if masks is None else torch.addcmul(h, update, masks[k])
        return self.last(h)

    def contrast(
        self,
        noisy: Tensor,
        context: Tensor,
        time: Tensor,
        masks: Tensor | None,
        compare: Comparison,
    ) -> Tensor:
        """The same with fewer small operations, which take a noticeable share of the time here."""
        v = torch.cat([noisy, context.expand(2, *context.shape), time], dim=-1)
        layers = [self.first, *self.layers, self.last]
        parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        return _Contrast.apply(v, masks, compare, *parameters)


class _Contrast(torch.autograd.Function):
    """`ResidualMLP.contrast`: a loss L of 2 B rows, its gradient that of the last B rows.

    d_k = silu'(a_k) m_k dL/dh_k,   dL/dh_{k-1} = dL/dh_k + d_k W_k,   a_k = W_k h_{k-1} + b_k
    dL/dW_k = d_k^T h_{k-1},   dL/db_k = sum over the rows of d_k
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, masks: Tensor | None, compare: Comparison, *parameters: Tensor
    ) -> Tensor:
        rows = v.shape[1]
        h = v.flatten(0, 1)
        weights, biases = parameters[0::2], parameters[1::2]
        inputs, sums = [], []  # h_{k-1} and a_k of the second half
        for k, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            a = affine(h, weight, bias)
            inputs.append(h[rows:])
            sums.append(a[rows:])
            update = F.silu(a)
            if k and masks is not None:
                update.view(2, rows, -1).mul_(masks[k - 1])
            h = update.add_(h) if k else update
        inputs.append(h[rows:])
        outputs = F.linear(h, weights[-1], biases[-1]).view(2, rows, -1)
        value, slope = compare(outputs)
        ctx.save_for_backward(*weights, *inputs, *sums)
        ctx.masks, ctx.slope = masks, slope
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        saved, last = ctx.saved_tensors, len(ctx.saved_tensors) // 3
        weights, inputs, sums = saved[: last + 1], saved[last + 1 : 2 * last + 2], saved[-last:]
        kind = inputs[-1].dtype  # a shorter one under autocast
        d, gradients = (scale * ctx.slope).to(kind), []
        g = d.mm(weights[-1].to(kind))
        for k in range(last, -1, -1):
            if k < last:
                scaled = g if k == 0 or ctx.masks is None else g * ctx.masks[k - 1].to(kind)
                d = torch.ops.aten.silu_backward(scaled, sums[k])
            gradients += [d.sum(0), affine(d.t(), inputs[k].to(kind).t())]
            if 0 < k < last:
                g = affine(d, weights[k].to(kind).t()).add_(g)
        v = None
        if ctx.needs_input_grad[0]:
            v = d.mm(weights[0].to(kind))
            v = torch.stack([torch.zeros_like(v), v])
        return v, None, None, *reversed(gradients)
