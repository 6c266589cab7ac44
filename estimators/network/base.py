"""The base of every free-form network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pair(NamedTuple):
    """Neighbouring points of paths u + t z, t_i < t_{i+1}, and how far apart the answers there are.

        f = c_skip (u + t z) + c_out F,   g = f_{i+1} - f_i
        loss = mean over the rows of w_i (sqrt(|g|^2 + c^2) - c)

    Arguments:
        u, z: parameter and noise, shape (B, D).
        context: shape (B, C).
        i: interval of each row, shape (B,).
        table: t, c_skip, c_out, the scale of a network's input, and the features of time, for the start
            and the end of every interval, shape (2, N, 4 + F).
        weights: w, shape (N,).
        c: where the distance turns from squares to lengths.
    """

    u: Tensor
    z: Tensor
    context: Tensor
    i: Tensor
    table: Tensor
    weights: Tensor
    c: float

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the network's parameters (2, B, D) and features of time (2, B, F), and what `compare` takes.

        That is c_skip (u + t z), shape (2, B, D), and c_out, shape (2, B, 1).
        """
        columns = self.table.index_select(1, self.i)
        t, skip, out, scale = columns[..., :4].split(1, dim=-1)
        noisy = torch.addcmul(self.u, t, self.z)
        return scale * noisy, columns[..., 4:], skip * noisy, out

    def compare(self, outputs: Tensor, kept: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss () of outputs F (2, B, D) and its derivative by the second (B, D)."""
        left, right = torch.addcmul(kept, out, outputs).unbind()
        gap = right - left
        share = self.weights.index_select(0, self.i) / len(gap)
        distance = (gap.square().sum(dim=1) + self.c**2).sqrt()
        slope = gap * out[1] * (share / distance).unsqueeze(1)
        return torch.dot(share, distance - self.c), slope


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

    def contrast(self, pair: Pair, masks: Tensor | None) -> Tensor:
        """Return the loss () of a pair; its derivative is that by the outputs at the second points.

        Arguments:
            pair: the points and their comparison.
            masks: as from `masks(rows, device)`, for both.
        """
        noisy, time, kept, out = pair.inputs()
        with torch.no_grad():
            first = self(noisy[0], pair.context, time[0], masks)
        second = self(noisy[1], pair.context, time[1], masks)
        with torch.no_grad():
            value, slope = pair.compare(torch.stack([first, second]), kept, out)
        # Its value is that of the loss, its derivative by the second output is the slope.
        linear = (slope * second).sum()
        return value + (linear - linear.detach())
