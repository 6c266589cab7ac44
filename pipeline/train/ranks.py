"""Ranks: the processes that train one estimator together, each on its own part of a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.train.noise import RowNoise


class Ranks:
    """The ranks that train together, and what they tell each other.

    Arguments:
        rank: number of this one.
        world: number of ranks; with one, nothing is sent.
        device: on which this rank computes.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: str = "cpu") -> None:
        self.rank, self.world, self.device = rank, world, torch.device(device)

    def noise(self, rows: int) -> AbstractContextManager[Any]:
        """Return the context in which this rank's rows get the random numbers of one rank with all rows."""
        return nullcontext() if self.world == 1 else RowNoise(self.rank, self.world, rows)

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the ranks, in one message."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks, of equal number, on every rank."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def broadcast(self, *values: float) -> tuple[float, ...]:
        """Return the values of rank 0 on every rank."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())
