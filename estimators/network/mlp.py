"""The free-form residual perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from estimators.estimator import within
from estimators.network.base import FreeForm, Pair
from estimators.network.product import affine, plain

NO_MASK = np.empty((0, 0), np.float32)


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
        v = torch.cat([noisy, context, time], dim=-1)
        if self._compiles(v):
            if torch.is_grad_enabled():
                return _Pass.apply(v, masks, *self._weights())
            return _ahead(v.numpy(), masks, self._weights(), 0)[0]
        h = F.silu(self.first(v))
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            update = F.silu(affine(h, layer.weight, layer.bias))
            h = h + update if masks is None else torch.addcmul(h, update, masks[k])
        return self.last(h)

    def contrast(self, pair: Pair, masks: Tensor | None) -> Tensor:
        if not (torch.is_grad_enabled() and self._compiles(pair.u)):
            return super().contrast(pair, masks)
        return _Contrast.apply(pair.context, pair, masks, *self._weights())

    def _compiles(self, v: Tensor) -> bool:
        """Say whether a training may go through `estimators.network.kernel`."""
        return self.training and plain(v) and torch.get_num_threads() == 1

    def _weights(self) -> list[Tensor]:
        layers = [self.first, *self.layers, self.last]
        return [p for layer in layers for p in (layer.weight, layer.bias)]


class _Pass(torch.autograd.Function):
    """`ResidualMLP.forward` by compiled layers."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, masks: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        output, ctx.layers = _ahead(v.detach().numpy(), masks, weights, len(v))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Any:
        v, gradients = _back(d, ctx.layers, ctx.saved_tensors, ctx.needs_input_grad[0])
        return v, None, *gradients


class _Contrast(torch.autograd.Function):
    """`ResidualMLP.contrast`: both points go through every layer together, the second comes back."""

    @staticmethod
    def forward(
        ctx: Any, context: Tensor, pair: Pair, masks: Tensor | None, *weights: Tensor
    ) -> Tensor:
        from estimators.network import kernel

        ctx.save_for_backward(*weights)
        u, z, i, table, pair_weights = (
            value.numpy() for value in (pair.u, pair.z, pair.i, pair.table, pair.weights)
        )
        given = context.detach().numpy()
        v = np.empty((2 * len(u), len(weights[0][0])), np.float32)
        kernel.inputs(u, z, given, i, table, v)
        output, ctx.layers = _ahead(v, masks, weights, len(u))
        ctx.slope, ctx.place = np.empty_like(u), slice(u.shape[1], u.shape[1] + given.shape[1])
        loss = kernel.compare(u, z, i, table, pair_weights, pair.c, output.numpy(), ctx.slope)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        d = scale * torch.from_numpy(ctx.slope)
        v, gradients = _back(d, ctx.layers, ctx.saved_tensors, ctx.needs_input_grad[0])
        return None if v is None else v[:, ctx.place], None, None, *gradients


def _ahead(
    v: np.ndarray, masks: Tensor | None, weights: Sequence[Tensor], rows: int
) -> tuple[Tensor, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the outputs of v, and each layer's inputs h and slopes s for the last `rows` of them."""
    from estimators.network import kernel  # what does not train needs no Numba

    *inner, last_weight, last_bias = (value.detach() for value in weights)
    h, layers = v, []
    for k in range(len(inner) // 2):
        weight, bias = inner[2 * k].numpy(), inner[2 * k + 1].numpy()
        mask = NO_MASK if k == 0 or masks is None else masks[k - 1].numpy()
        output = np.empty((len(h), len(weight)), np.float32)
        slope = np.empty((rows, len(weight)), np.float32)
        kernel.ahead(h, weight, bias, mask, k > 0, output, slope)
        layers.append((h[-rows:], slope))
        h = output
    layers.append((h[-rows:], NO_MASK))
    return F.linear(torch.from_numpy(h), last_weight, last_bias), layers


def _back(
    d: Tensor,
    layers: list[tuple[np.ndarray, np.ndarray]],
    weights: Sequence[Tensor],
    to_v: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Return dL/dv, if asked for, and those of all weights and biases, from d = dL/d(output)."""
    from estimators.network import kernel

    gradients = [d.sum(0), d.t().mm(torch.from_numpy(layers[-1][0]))]
    pull = d.mm(weights[-2].detach()).numpy()
    for k in range(len(layers) - 2, -1, -1):
        (h, slope), weight = layers[k], weights[2 * k].detach().numpy()
        asked = len(h) if k or to_v else 0
        to_weight, to_bias = np.empty_like(weight), np.empty(len(weight), np.float32)
        to_h = np.empty((asked, h.shape[1]), np.float32)
        kernel.back(pull, slope, h, weight, k > 0, to_weight, to_bias, to_h)
        gradients += [torch.from_numpy(to_bias), torch.from_numpy(to_weight)]
        pull = to_h
    return torch.from_numpy(pull) if to_v else None, gradients[::-1]
