"""The base of every summary network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Summary(nn.Module):
    """Maps a simulation's outputs, a dict of (rows, ...) tensors, to one vector (rows, width)."""

    width: int

    def fit(self, x: Mapping[str, Tensor]) -> None:
        """Standardise by training outputs."""
        raise NotImplementedError
