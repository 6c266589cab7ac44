"""The base of every free-form network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    def row_memory(self) -> int:
        """About how many numbers one row takes in a pass without gradient."""
        raise NotImplementedError

    def masks(self, rows: int, device: torch.device) -> Tensor | None:
        """Return fresh dropout masks for training, None where nothing is dropped.

        They can be given to several passes, which then drop the same units.
        """
        return None

    def perceptron_weights(self) -> list[Tensor] | None:
        """Return W_0, b_0 ... W, b where this is `estimators.network.mlp.ResidualMLP`, None elsewhere."""
        return None

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return the outputs (rows, D)."""
        raise NotImplementedError
