"""Late fusion: a summary network for each kind of output, and dense layers that join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from estimators.outputs import MASK, masked
from estimators.settings import Dropout, PositiveInt
from estimators.summary import summary_network
from estimators.summary.base import Summary, he_initialise

KEYS = ("network", "inputs", "arguments")


class Fusion(Summary):
    """A summary of outputs of different kinds: those of the parts, joined by dense layers.

    Arguments:
        shapes: name -> shape of one simulation's output.
        parts: for each part its network (a name), inputs (names of outputs; their masks follow) and
            arguments.
        outputs: size of the summary.
        hidden: units of the dense layers that join.
        dropout: probability with which training drops one of these units.

    Raises:
        ValueError: a part without network or inputs, an unknown input, or an output that no part takes.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        parts: Mapping[str, Mapping[str, Any]],
        outputs: PositiveInt = 32,
        hidden: Sequence[PositiveInt] = (128,),
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.width = outputs
        _check(parts, list(masked(shapes)))
        self.parts = nn.ModuleDict()
        joined = 0
        for name, part in parts.items():
            wanted = {key for given in part["inputs"] for key in (given, given + MASK)}
            own = {key: shape for key, shape in shapes.items() if key in wanted}
            self.parts[name] = network = summary_network(
                part["network"], own, part.get("arguments", {})
            )
            joined += network.width
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(joined, units), nn.SiLU(), nn.Dropout(dropout)]
            joined = units
        self.head = nn.Sequential(*layers, nn.Linear(joined, outputs))
        he_initialise(self.head)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        for part in self.parts.values():
            part.fit(x)  # type: ignore[operator]

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.head(torch.cat([part(x) for part in self.parts.values()], dim=1))


def _check(parts: Mapping[str, Mapping[str, Any]], outputs: list[str]) -> None:
    if not parts:
        raise ValueError("summary 'fusion' needs parts: name -> {network, inputs, arguments}")
    taken = set()
    for name, part in parts.items():
        if not {"network", "inputs"} <= set(part) <= set(KEYS):
            raise ValueError(
                f"part {name!r} of summary 'fusion' has the keys {sorted(part)}; "
                "valid: network and inputs, perhaps arguments"
            )
        for given in part["inputs"]:
            if given not in outputs:
                raise ValueError(
                    f"part {name!r} of summary 'fusion': no output {given!r}; valid: {', '.join(outputs)}"
                )
        taken |= set(part["inputs"])
    if left := [name for name in outputs if name not in taken]:
        raise ValueError(f"summary 'fusion': no part takes the output {left[0]!r}")
