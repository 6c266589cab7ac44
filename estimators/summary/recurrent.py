"""A summary of series by a recurrent network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.settings import PositiveInt
from estimators.summary.base import Elements, Summary

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(Summary):
    """A summary of a series: the state of a recurrent network behind its last present element.

    Long Short-Term Memory (1997); Learning Phrase Representations using RNN Encoder-Decoder (2014),
    arXiv 1406.1078. Absent elements are passed over; a series without any has the state zero.

    Arguments:
        shapes: name -> shape (L, ...) of one simulation's output; the first axis is time.
        outputs: size of the state, and of the summary.
        layers: number of networks on top of each other.
        cell: gru or lstm.

    Raises:
        LookupError: unknown cell.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        outputs: PositiveInt = 32,
        layers: PositiveInt = 1,
        cell: str = "gru",
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise LookupError(f"cell = {cell!r}: valid are {', '.join(sorted(CELLS))}")
        self.width = outputs
        self.elements = Elements(shapes)
        self.network = CELLS[cell](self.elements.channels, outputs, layers, batch_first=True)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.elements.fit(x)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        values, present = self.elements(x)
        if present is None:
            return self.network(values)[0][:, -1]
        # The present elements first, in their order: nothing behind them can reach their states.
        order = present.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        values = values.take_along_dim(order[..., None], dim=1)
        states = self.network(values)[0]
        count = present.sum(dim=1)
        last = states.take_along_dim((count - 1).clamp(min=0)[:, None, None], dim=1)[:, 0]
        return last.masked_fill(count[:, None] == 0, 0.0)
