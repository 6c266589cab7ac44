"""A summary of sets by their mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.outputs import MASK, masked
from estimators.settings import PositiveInt
from estimators.summary.base import Elements, Summary, he_initialise, masked_mean


class DeepSet(Summary):
    """A permutation-invariant summary of sets: rho(mean_i phi(x_i)), one phi for each output.

    Deep Sets (2017), arXiv 1703.06114.

    Arguments:
        shapes: name -> shape (elements, ...) of one simulation's output; the first axis is the set.
        outputs: size of the summary.
        hidden: units in a layer.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        outputs: PositiveInt = 16,
        hidden: PositiveInt = 64,
    ) -> None:
        super().__init__()
        self.width = outputs
        self.elements = nn.ModuleDict()
        self.phi = nn.ModuleDict()
        for name in masked(shapes):
            own = {key: shapes[key] for key in (name, name + MASK) if key in shapes}
            self.elements[name] = elements = Elements(own)
            self.phi[name] = _perceptron(elements.channels, hidden, hidden)
        self.rho = _perceptron(hidden * len(self.phi), hidden, outputs)
        he_initialise(self)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        for elements in self.elements.values():
            elements.fit(x)  # type: ignore[operator]

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        pooled = []
        for name, phi in self.phi.items():
            values, present = self.elements[name](x)
            pooled.append(masked_mean(phi(values), present))
        return self.rho(torch.cat(pooled, dim=1))


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
