"""A summary network of raw outputs: a preprocessing, then the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from estimators.preprocessing import Outputs, Step, steps_of
from estimators.summary import summary_network
from estimators.summary.base import Summary


def summary_of(
    shapes: Mapping[str, tuple[int, ...]],
    preprocessing: str,
    name: str,
    arguments: Mapping[str, Any],
) -> Summary:
    """Return the summary network of raw outputs: the network of this name behind a preprocessing.

    Raises:
        LookupError: unknown preprocessing or summary network.
        ValueError: the outputs are not what the steps expect.
    """
    steps, left = steps_of(preprocessing), dict(shapes)
    for step in steps:
        try:
            left = step.shapes(left)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"preprocessing {preprocessing!r}: {step} does not fit outputs of shapes {left}"
            ) from error
    network = summary_network(name, left, arguments)
    return Preprocessed(steps, network) if steps else network


class Preprocessed(Summary):
    """A summary network behind the steps of a preprocessing.

    Arguments:
        steps: what is done with the raw outputs, in order.
        network: takes what comes out.
    """

    def __init__(self, steps: tuple[Step, ...], network: Summary) -> None:
        super().__init__()
        self.steps, self.network = steps, network
        self.width = network.width

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.network.fit(self._prepare(x))

    def select(self, u: Tensor, x: Mapping[str, Tensor]) -> None:
        self.network.select(u, self._prepare(x))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.network(self._prepare(x))

    def _prepare(self, x: Mapping[str, Tensor]) -> Outputs:
        outputs = dict(x)
        for step in self.steps:
            outputs = step(outputs)
        return outputs
