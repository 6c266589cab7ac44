"""Networks: the free-form residual perceptron, features of time, and summaries of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from estimators.registry import suggest
from estimators.transform import LIMIT, Standardizer

Comparison = Callable[[Tensor], tuple[Tensor, Tensor]]


class ResidualMLP(nn.Module):
    """Maps vectors to vectors through residual SiLU layers; its output starts at zero.

        h_0 = silu(W_0 v + b_0),   h_k = h_{k-1} + m_k silu(W_k h_{k-1} + b_k),   out = W h_K + b

    The dropout masks m_k can be drawn once and given to several passes.

    Arguments:
        inputs, outputs: sizes of a vector.
        width: units in a layer.
        depth: number K of residual layers.
        dropout: share of a layer's units that a mask silences.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, outputs)
        self.keep = 1.0 - dropout
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def masks(self, rows: int, device: torch.device) -> Tensor | None:
        """Return fresh masks (K, rows, width) for training, None where nothing is dropped."""
        if not self.training or self.keep == 1.0:
            return None
        shape = (len(self.layers), rows, self.first.out_features)
        return torch.empty(shape, device=device).bernoulli_(self.keep).div_(self.keep)

    def forward(self, v: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the outputs (rows, outputs) for inputs (rows, inputs)."""
        h = F.silu(self.first(v))
        for k, layer in enumerate(self.layers):
            update = F.silu(layer(h))
            h = h + update if masks is None else torch.addcmul(h, update, masks[k])
        return self.last(h)

    def contrast(self, v: Tensor, masks: Tensor | None, compare: Comparison) -> Tensor:
        """Return a loss between the outputs for two inputs; only the second has a gradient.

        The same as `compare` of two calls, the first without gradient, with fewer small operations:
        in a small network these take a noticeable share of the time.

        Arguments:
            v: both inputs, shape (2, rows, inputs).
            masks: as from `masks(rows, device)`, for both.
            compare: both outputs (2, rows, outputs) -> loss () and its derivative by the second
                output (rows, outputs).
        """
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
            a = F.linear(h, weight, bias)
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
            gradients += [d.sum(0), d.t().mm(inputs[k].to(kind))]
            if 0 < k < last:
                g = torch.addmm(g, d, weights[k].to(kind))
        v = None
        if ctx.needs_input_grad[0]:
            v = d.mm(weights[0].to(kind))
            v = torch.stack([torch.zeros_like(v), v])
        return v, None, None, *reversed(gradients)


class LogTimeFeatures(nn.Module):
    """Features sin(w_k log(t) / 4), cos(w_k log(t) / 4) of a time t, w_k geometric.

    Arguments:
        count: number of frequencies.
        highest: the highest frequency; the lowest is 1.
    """

    frequencies: Tensor

    def __init__(self, count: int, highest: float = 20.0) -> None:
        super().__init__()
        self.width = 2 * count
        exponents = torch.linspace(0.0, math.log(highest), count)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return features (..., 2 count) for times (...)."""
        phase = 0.25 * t.log().unsqueeze(-1) * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class Summary(nn.Module):
    """Maps a simulation's outputs, a dict of (rows, ...) tensors, to one vector (rows, width)."""

    width: int

    def fit(self, x: Mapping[str, Tensor]) -> None:
        """Standardise by training outputs."""
        raise NotImplementedError


class Identity(Summary):
    """The standardised outputs themselves, flattened and joined in the order of their names.

    Arguments:
        shapes: name -> shape of one simulation's output.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.names = sorted(shapes)
        self.width = sum(math.prod(shapes[name]) for name in self.names)
        self.standard = Standardizer((self.width,))

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.standard.fit(self._flat(x))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.standard(self._flat(x)).clamp(-LIMIT, LIMIT)

    def _flat(self, x: Mapping[str, Tensor]) -> Tensor:
        parts = [_vectors(x[name]) for name in self.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class DeepSet(Summary):
    """A permutation-invariant summary of sets: rho(mean_i phi(x_i)), one phi for each output.

    Deep Sets (2017), arXiv 1703.06114.

    Arguments:
        shapes: name -> shape (elements, ...) of one simulation's output; the first axis is the set.
        outputs: size of the summary.
        hidden: units in a layer.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], *, outputs: int = 16, hidden: int = 64
    ) -> None:
        super().__init__()
        flat = [name for name, shape in shapes.items() if not shape]
        if flat:
            raise ValueError(f"summary 'deepset': output {flat[0]!r} is a number, not a set")
        self.names = sorted(shapes)
        self.width = outputs
        sizes = {name: math.prod(shapes[name][1:]) for name in self.names}
        self.standard = nn.ModuleDict({n: Standardizer((sizes[n],)) for n in self.names})
        self.phi = nn.ModuleDict({n: _perceptron(sizes[n], hidden, hidden) for n in self.names})
        self.rho = _perceptron(hidden * len(self.names), hidden, outputs)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        for name in self.names:
            standard = self.standard[name]
            assert isinstance(standard, Standardizer)
            standard.fit(self._elements(x[name]).flatten(0, 1))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        pooled = []
        for name in self.names:
            elements = self.standard[name](self._elements(x[name])).clamp(-LIMIT, LIMIT)
            pooled.append(self.phi[name](elements).mean(dim=1))
        return self.rho(torch.cat(pooled, dim=1))

    def _elements(self, values: Tensor) -> Tensor:
        return values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)


def _vectors(values: Tensor) -> Tensor:
    return values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )


SUMMARIES: dict[str, type[Summary]] = {
    "deepset": DeepSet,
    "identity": Identity,
}


def summary_network(
    name: str, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, int]
) -> Summary:
    """Return the summary network of this name.

    Raises:
        LookupError: there is none of this name.
        TypeError: it has no such argument.
    """
    if name not in SUMMARIES:
        raise LookupError(f"unknown summary {name!r}{suggest(name, sorted(SUMMARIES))}")
    return SUMMARIES[name](shapes, **arguments)
