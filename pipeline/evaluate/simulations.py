"""The test simulations as the evaluation uses them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.store import Store, to_numpy
from pipeline.store.observation import Observation, without_row
from pipeline.train.dataset import Table


@dataclass(frozen=True)
class TestSimulations:
    """The test simulations that are ok.

    Attributes:
        ids: shape (B,).
        theta: true parameters, shape (B, D).
        x: outputs as the simulator returned them, one mapping for each test set.
        inputs: the outputs as the estimator takes them, each (B, ...).
    """

    __test__ = False  # pytest takes it for no test

    ids: np.ndarray
    theta: np.ndarray
    x: list[dict[str, np.ndarray]]
    inputs: dict[str, np.ndarray]

    @property
    def flat(self) -> np.ndarray:
        """The inputs side by side, shape (B, F)."""
        parts = [np.asarray(x, np.float64).reshape(len(x), -1) for x in self.inputs.values()]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(self.ids), 0))

    @classmethod
    def read(
        cls,
        store: Store,
        test: int,
        shapes: Mapping[str, tuple[int, ...]],
        observation: Observation | None = None,
    ) -> TestSimulations:
        """Read test simulations, each observed once.

        Arguments:
            store: of the test stream.
            test: number of ids.
            shapes: of the estimator's inputs, by name.
            observation: of the rows; None: they are as the store has them.

        Raises:
            UsageError: the outputs have other shapes than the inputs.
        """
        ids, theta, x, lengths = to_numpy(store, test)
        x = without_row(x) if observation is None else observation(x, ids)
        table = Table.of(store, test, 0.0, observation)
        _check_shapes(table, shapes)
        table = dataclasses.replace(table, shapes={name: shapes[name] for name in table.shapes})
        inputs = {name: values.numpy() for name, values in table.gather(ids).x.items()}
        single = [
            {k: v[i, : lengths[k][i]] if k in lengths else v[i] for k, v in x.items()}
            for i in range(len(ids))
        ]
        return cls(ids, theta, single, inputs)


def _check_shapes(table: Table, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse test simulations that the estimator cannot take; ragged outputs are cut or padded."""
    for name, shape in table.shapes.items():
        skip = int(name in table.ragged)
        if tuple(wanted.get(name, ()))[skip:] != shape[skip:]:
            valid = ", ".join(f"{key} {tuple(value)}" for key, value in wanted.items())
            raise UsageError(
                f"the test simulations have {name} {tuple(shape)}, the posterior needs {valid}"
            )


def open_test_store(run: RunDirectory, test: int) -> Store:
    """Return the store of the test simulations.

    Raises:
        UsageError: some are missing, or none is ok.
    """
    path = run.store("test")
    if not test or not path.exists():
        raise UsageError(
            f"{run.path} has no test simulations: set test=100 and run `sbiflow simulate`"
        )
    store = Store.open(path).snapshot()  # the digest is that of the rows that are used
    counts = store.counts(test)
    if counts["missing"] or not counts["ok"]:
        raise UsageError(
            f"test={test}: {counts['missing']} simulations are missing, {counts['ok']} are ok;"
            " run `sbiflow simulate`"
        )
    return store
