"""The test simulations, as the evaluation needs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.dataset import Table
from pipeline.errors import UsageError
from pipeline.run import Run
from pipeline.store import Store


@dataclass(frozen=True)
class HeldOut:
    """The test simulations that are ok.

    Attributes:
        ids: shape (B,). theta: true parameters, shape (B, D).
        x: outputs as the simulator gave them, one mapping for each test set.
        inputs: the same as the estimator takes them, each (B, ...).
    """

    ids: np.ndarray
    theta: np.ndarray
    x: list[dict[str, np.ndarray]]
    inputs: dict[str, np.ndarray]

    @classmethod
    def read(cls, store: Store, test: int, shapes: Mapping[str, tuple[int, ...]]) -> HeldOut:
        """Read the first `test` ids; `shapes` are those of the estimator's inputs."""
        ids, theta, x, lengths = store.numpy(test)
        table = Table.of(store, test, 0.0)
        table = dataclasses.replace(table, shapes={name: shapes[name] for name in table.shapes})
        inputs = {name: values.numpy() for name, values in table.gather(ids).x.items()}
        single = [
            {k: v[i, : lengths[k][i]] if k in lengths else v[i] for k, v in x.items()}
            for i in range(len(ids))
        ]
        return cls(ids, theta, single, inputs)


def test_store(run: Run, test: int) -> Store:
    """Return the store of the test simulations; `UsageError` unless they are all there."""
    path = run.store("test")
    if not test or not path.exists():
        raise UsageError(
            f"{run.path} has no test simulations: set test=100 and run `sbiflow simulate`"
        )
    store = Store.open(path)
    counts = store.counts(test)
    if counts["missing"] or not counts["ok"]:
        raise UsageError(
            f"test={test}: {counts['missing']} simulations are missing, {counts['ok']} are ok;"
            " run `sbiflow simulate`"
        )
    return store
