"""OPTIMISATION: the training of `ResidualMLP` on one thread by layers that Numba compiles.

Everything here equals the plain form in torch up to rounding, and nothing depends on it: `applies` says
where it is taken. On a batch of 64 and 256 units a step in torch spends a third of its time between the
matrix products, in some eighty small operations; `python -m benchmarks step` measures what is gained.

`forward` replaces a pass of the network. `consistency_loss` replaces the loss of `estimators.cmpe`,
given a pair of neighbouring points u + t z of each row:

    v = (a c_in (u + t z), a context, features(t)),   f = c_skip (u + t z) + c_out F(v)
    loss = mean over the rows of w_i (sqrt(|f(t_{i+1}) - f(t_i)|^2 + c^2) - c)

Both points pass each layer together; the gradient is that of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from estimators.network.base import FreeForm
from estimators.network.inputs import NetworkInputs
from estimators.network.product import is_single_precision_matrix
from estimators.preconditioning import Preconditioning

NO_MASKS = np.empty((0, 0), np.float32)


class Pair(NamedTuple):
    """Neighbouring points of each row, and how their distance is weighted.

    Arguments:
        u, z: parameter and noise, shape (B, D).
        context: summary of x, shape (B, C).
        interval: i of each row, shape (B,).
        table: what `time_table` returns.
        weights: w, shape (N,).
        c: of the pseudo-Huber distance.
        input_scale: a.
    """

    u: Tensor
    z: Tensor
    context: Tensor
    interval: Tensor
    table: Tensor
    weights: Tensor
    c: float
    input_scale: float


def applies(network: FreeForm, values: Tensor) -> bool:
    """Say whether a network trains by compiled layers: a perceptron, in single precision, on one thread."""
    return (
        network.training
        and network.perceptron_weights() is not None
        and is_single_precision_matrix(values)
        and torch.get_num_threads() == 1
    )


def forward(network: FreeForm, v: Tensor, masks: Tensor | None) -> Tensor:
    """Return the outputs (rows, D) of a perceptron for its joined inputs v, shape (rows, D + C + F)."""
    weights = network.perceptron_weights()
    assert weights is not None
    if torch.is_grad_enabled():
        output: Tensor = _FusedForward.apply(v, masks, *weights)
        return output
    return _forward_layers(v.numpy(), masks, weights, 0)[0]


def consistency_loss(network: FreeForm, pair: Pair, masks: Tensor | None) -> Tensor:
    """Return the loss () of a pair.

    Arguments:
        network: F, a perceptron.
        pair: the points and their weights.
        masks: dropout masks for both points.
    """
    weights = network.perceptron_weights()
    assert weights is not None
    loss: Tensor = _FusedConsistencyLoss.apply(pair.context, pair, masks, *weights)
    return loss


def time_table(t: Tensor, scales: Preconditioning, inputs: NetworkInputs) -> Tensor:
    """Return t, c_skip, c_out, a c_in and features at both ends of each interval, (2, N, 4 + F).

    Arguments:
        t: increasing times, shape (N + 1,).
        scales: of the consistency function.
        inputs: of the network.
    """
    head = torch.stack([t, scales.c_skip(t), scales.c_out(t), inputs.scale * scales.c_in(t)], dim=1)
    columns = torch.cat([head, inputs.features(t)], dim=1)
    return torch.stack([columns[:-1], columns[1:]])


class _FusedForward(torch.autograd.Function):
    """`ResidualMLP.forward` by compiled layers."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, masks: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        output, ctx.layers = _forward_layers(v.detach().numpy(), masks, weights, len(v))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Any:
        v, gradients = _backward_layers(d, ctx.layers, ctx.saved_tensors, ctx.needs_input_grad[0])
        return v, None, *gradients


class _FusedConsistencyLoss(torch.autograd.Function):
    """`consistency_loss` with the gradient of the second point."""

    @staticmethod
    def forward(
        ctx: Any, context: Tensor, pair: Pair, masks: Tensor | None, *weights: Tensor
    ) -> Tensor:
        from estimators.network import kernel

        ctx.save_for_backward(*weights)
        u, z, i, table, w = (
            value.numpy() for value in (pair.u, pair.z, pair.interval, pair.table, pair.weights)
        )
        given, ctx.input_scale = context.detach().numpy(), pair.input_scale
        v = np.empty((2 * len(u), len(weights[0][0])), np.float32)
        kernel.pair_inputs(u, z, given, np.float32(pair.input_scale), i, table, v)
        output, ctx.layers = _forward_layers(v, masks, weights, len(u))
        ctx.slope, ctx.place = np.empty_like(u), slice(u.shape[1], u.shape[1] + given.shape[1])
        loss = kernel.pair_loss(u, z, i, table, w, pair.c, output.numpy(), ctx.slope)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        d = grad_loss * torch.from_numpy(ctx.slope)
        v, gradients = _backward_layers(d, ctx.layers, ctx.saved_tensors, ctx.needs_input_grad[0])
        to_context = None if v is None else ctx.input_scale * v[:, ctx.place]
        return to_context, None, None, *gradients


def _forward_layers(
    v: np.ndarray, masks: Tensor | None, weights: Sequence[Tensor], rows: int
) -> tuple[Tensor, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the outputs of v, and each layer's inputs h and slopes s for the last `rows` of them."""
    from estimators.network import kernel  # only a training imports Numba

    *inner, last_weight, last_bias = (value.detach() for value in weights)
    h, layers = v, []
    for k in range(len(inner) // 2):
        weight, bias = inner[2 * k].numpy(), inner[2 * k + 1].numpy()
        mask = NO_MASKS if k == 0 or masks is None else masks[k - 1].numpy()
        output = np.empty((len(h), len(weight)), np.float32)
        slope = np.empty((rows, len(weight)), np.float32)
        kernel.forward(h, weight, bias, mask, k > 0, output, slope)
        layers.append((h[-rows:], slope))
        h = output
    layers.append((h[-rows:], NO_MASKS))
    return F.linear(torch.from_numpy(h), last_weight, last_bias), layers


def _backward_layers(
    d: Tensor,
    layers: list[tuple[np.ndarray, np.ndarray]],
    weights: Sequence[Tensor],
    needs_input_grad: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Return dL/dv, if asked for, and those of all weights and biases, from d = dL/d(output)."""
    from estimators.network import kernel

    gradients = [d.sum(0), d.t().mm(torch.from_numpy(layers[-1][0]))]
    grad_output = d.mm(weights[-2].detach()).numpy()
    for k in range(len(layers) - 2, -1, -1):
        (h, slope), weight = layers[k], weights[2 * k].detach().numpy()
        asked = len(h) if k or needs_input_grad else 0
        grad_weight, grad_bias = np.empty_like(weight), np.empty(len(weight), np.float32)
        grad_input = np.empty((asked, h.shape[1]), np.float32)
        kernel.backward(grad_output, slope, h, weight, k > 0, grad_weight, grad_bias, grad_input)
        gradients += [torch.from_numpy(grad_bias), torch.from_numpy(grad_weight)]
        grad_output = grad_input
    return torch.from_numpy(grad_output) if needs_input_grad else None, gradients[::-1]
