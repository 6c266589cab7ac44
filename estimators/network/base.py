"""The base of every free-form network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Comparison = Callable[[Tensor], tuple[Tensor, Tensor]]


class FreeForm(nn.Module):
    """Maps a noisy parameter (rows, D), a context (rows, C) and features of time (rows, F) to (rows, D).

    Arguments:
        size: D.
        context: C.
        time: F.
    """

    def __init__(self, size: int, context: int, time: int) -> None:
        super().__init__()
        self.size, self.context, self.time = size, context, time

    @property
    def floats(self) -> int:
        """About how many numbers one row takes in a pass without gradient."""
        raise NotImplementedError

    def masks(self, rows: int, device: torch.device) -> Tensor | None:
        """Return fresh dropout masks for training, None where nothing is dropped.

        They can be given to several passes, which then drop the same units.
        """
        return None

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return the outputs (rows, D)."""
        raise NotImplementedError

    def contrast(
        self,
        noisy: Tensor,
        context: Tensor,
        time: Tensor,
        masks: Tensor | None,
        compare: Comparison,
    ) -> Tensor:
        """Return a loss between the outputs at two times; only the second has a gradient.

        Arguments:
            noisy: parameters at both times, shape (2, rows, D).
            context: shape (rows, C).
            time: features of both times, shape (2, rows, F).
            masks: as from `masks(rows, device)`, for both.
            compare: both outputs (2, rows, D) -> loss () and its derivative by the second output
                (rows, D).
        """
        with torch.no_grad():
            first = self(noisy[0], context, time[0], masks)
        second = self(noisy[1], context, time[1], masks)
        with torch.no_grad():
            value, slope = compare(torch.stack([first, second]))
        # Its value is that of the loss, its derivative by the second output is the slope.
        linear = (slope * second).sum()
        return value + (linear - linear.detach())
