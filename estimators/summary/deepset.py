"""A summary of sets."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.summary.base import Summary
from estimators.transform import LIMIT, Standardizer


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


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
