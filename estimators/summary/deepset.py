"""A summary of sets by their mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.summary import MASK
from estimators.summary.base import Elements, Summary, keep_variance, masked, mean, sizes


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
        sizes(outputs=outputs, hidden=hidden)
        self.width = outputs
        self.elements = nn.ModuleDict()
        self.phi = nn.ModuleDict()
        for name in masked(shapes):
            own = {key: shapes[key] for key in (name, name + MASK) if key in shapes}
            self.elements[name] = elements = Elements(own)
            self.phi[name] = _perceptron(elements.channels, hidden, hidden)
        self.rho = _perceptron(hidden * len(self.phi), hidden, outputs)
        keep_variance(self)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        for elements in self.elements.values():
            elements.fit(x)  # type: ignore[operator]

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        pooled = []
        for name, phi in self.phi.items():
            values, present = self.elements[name](x)
            pooled.append(mean(phi(values), present))
        return self.rho(torch.cat(pooled, dim=1))


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
