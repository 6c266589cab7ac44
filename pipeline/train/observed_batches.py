"""Batches of rows in memory that are observed anew in each epoch, ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pipeline.store.observation import Observation
from pipeline.train.batches import Order
from pipeline.train.dataset import Batch, Table

AHEAD = 4  # batches that are observed before they are needed


class ObservedBatches(IterableDataset):
    """Batches from rows that are kept in memory as the store has them; their noise is new in each epoch.

    The rows of a batch are those of `ResidentBatches`, for any number of ranks, and so is their noise.
    """

    def __init__(self, table: Table, order: Order) -> None:
        assert table.observation is not None
        self.observation: Observation = table.observation
        self.order, self.ids = order, table.train
        self.theta, self.x = table.kept(self.ids)
        self.steps = len(self.ids) // order.batch  # of an epoch
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, step: int) -> Generator[Batch]:
        """Yield batches for ever, beginning with the one of `step`."""
        with ThreadPoolExecutor(1, "observation") as observer:
            ahead: deque[Future[Batch]] = deque()
            try:
                while True:
                    while len(ahead) < AHEAD:
                        ahead.append(observer.submit(self.batch, step))
                        step += 1
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the batch of a step."""
        epoch, within = divmod(step, self.steps)
        start = within * self.order.batch + self.order.rank * self.order.part
        rows = self._shuffled(epoch)[start : start + self.order.part]
        index = rows.numpy()
        latent = {name: values[index] for name, values in self.x.items()}
        x = self.observation(latent, self.ids[index], epoch)
        outputs = {k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in x.items()}
        return Batch(self.theta.index_select(0, rows), outputs)

    def _shuffle(self, epoch: int) -> Tensor:
        return self.order.shuffled(len(self.ids), epoch)
