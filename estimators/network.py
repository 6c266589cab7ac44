"""Networks: the free-form residual perceptron, features of time, and summaries of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.registry import suggest
from estimators.transform import LIMIT, Standardizer


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
