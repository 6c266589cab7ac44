"""One simulation, or one block of a batched simulator: from ids to rows, whatever the simulator does.

The rows of ids that share a key (the id itself, or the block `id // block_size`) follow from

    prior_rng, noise_rng = generators(seed, stream, key)
    theta = prior.sample(prior_rng),  x ~ simulator(theta; noise_rng)

With the design "sobol" theta is the prior's quantile of a point of the unit cube, see `pipeline.seed.points`.
A simulator that raises, runs out of time or gives NaN makes a row with its reason; only outputs whose names,
shapes or dtypes differ from the schema are an error of the whole stage.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.seed import generators, points
from pipeline.store import Failure, Outcome, Rows, Schema

MOST_TRACEBACK = 8000  # characters kept of one traceback, its end


@dataclass(frozen=True)
class Simulation:
    """What all simulations of one store have in common."""

    simulator: Any
    seed: int
    stream: int
    block: int  # ids that share a key: 1 unless the simulator is batched
    timeout: float | None  # seconds
    design: str = "random"

    def key(self, number: int) -> int:
        return int(number) // self.block

    def theta(self, ids: np.ndarray) -> np.ndarray:
        """Return the parameters (n, D) of ids that share a key."""
        return self._block(self.key(ids[0]))[ids % self.block]

    def _block(self, key: int) -> np.ndarray:
        """Return the parameters of all ids of a key, shape (block, D)."""
        prior = self.simulator.prior
        if self.design == "sobol":
            size, first = len(prior.names), key * self.block
            theta = prior.quantile(points(self.seed, self.stream, size, first, self.block))
        else:
            prior_rng, _ = generators(self.seed, self.stream, key)
            theta = prior.sample(prior_rng, self.block)
        return np.asarray(theta)

    def run(self, ids: np.ndarray) -> Rows:
        """Simulate ids that share a key."""
        _, noise_rng = generators(self.seed, self.stream, self.key(ids[0]))
        theta = self._block(self.key(ids[0]))
        started = time.perf_counter()
        try:
            x = self._outputs(theta, noise_rng)
        # A simulator may raise anything, SystemExit and KeyboardInterrupt among it: all are its failures.
        except BaseException as error:
            seconds = time.perf_counter() - started
            late = isinstance(error, TimeoutError) and self.simulator.owns_timeout
            outcome = Outcome.TIMEOUT if late else Outcome.FAILED
            return self.failed(
                ids, theta[ids % self.block], outcome, _reason(error), _trace(error), seconds
            )
        seconds = (time.perf_counter() - started) / len(ids)
        return self._rows(ids, theta, x, seconds)

    def _outputs(self, theta: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return outputs with a first axis over the rows of theta."""
        if self.simulator.batched:
            return _native(self.simulator.simulate_block(theta, rng))
        x = _native(self.simulator.simulate(theta[0], rng, timeout=self.timeout))
        return {name: value[None] for name, value in x.items()}

    def _rows(
        self, ids: np.ndarray, theta: np.ndarray, x: dict[str, np.ndarray], seconds: float
    ) -> Rows:
        n = len(ids)
        if n < len(theta):
            theta, x = theta[ids % self.block], {k: v[ids % self.block] for k, v in x.items()}
        bad = {
            name: where for name, value in x.items() if (where := _not_finite(value)) is not None
        }
        outcome = np.zeros(n, np.uint8)
        for where in bad.values():
            outcome[where] = Outcome.INVALID
        failures = tuple(
            Failure(
                int(ids[row]),
                Outcome.INVALID,
                f"NaN or Inf in {', '.join(name for name in bad if bad[name][row])}",
                "",
            )
            for row in np.flatnonzero(outcome)
        )
        lengths = {name: np.array([x[name].shape[1]]) for name in self.simulator.ragged}
        return Rows(ids, theta, x, lengths, outcome, np.full(n, seconds, np.float32), failures)

    def failed(
        self,
        ids: np.ndarray,
        theta: np.ndarray,
        outcome: Outcome,
        message: str,
        trace: str,
        seconds: float,
    ) -> Rows:
        """Return rows without outputs, all for the same reason."""
        n = len(ids)
        if self.block > 1:
            message = f"{message} (in a block of {self.block})"
        trace = trace[-MOST_TRACEBACK:]  # once is enough for a block
        failures = tuple(
            Failure(int(number), outcome, message, "" if k else trace)
            for k, number in enumerate(ids)
        )
        column = np.full(n, seconds / n, np.float32)
        return Rows(ids, theta, {}, {}, np.full(n, outcome, np.uint8), column, failures)


def _native(x: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return arrays in this machine's byte order, as the store keeps them."""
    arrays = {name: np.asarray(value) for name, value in x.items()}
    return {
        name: value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
        for name, value in arrays.items()
    }


def _not_finite(value: np.ndarray) -> np.ndarray | None:
    """Return which rows hold NaN or Inf, or None if no row does."""
    if value.dtype.kind not in "fc":
        return None
    finite = np.isfinite(value)
    return None if finite.all() else ~finite.reshape(len(value), -1).all(axis=1)


def _reason(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()[-1000:]


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# --- the schema ----------------------------------------------------------------------------------


def schema_of(rows: Rows, ragged: frozenset[str]) -> Schema:
    """Return the schema of rows that have outputs."""
    arrays = {
        name: (value.dtype.str, (0, *value.shape[2:]) if name in ragged else value.shape[1:])
        for name, value in rows.x.items()
    }
    return Schema(arrays, ragged)


def check_schema(rows: Rows, schema: Schema, simulator: str) -> None:
    """Refuse outputs that are not those of the schema.

    Raises:
        UsageError: names the output, the id, what came and what was expected.
    """
    if not rows.x:
        return
    where = f"simulator {simulator!r}, simulation {rows.ids[0]}"
    if rows.x.keys() != schema.arrays.keys():
        raise UsageError(
            f"{where}: outputs are {sorted(rows.x)}, in other simulations {sorted(schema.arrays)}"
        )
    for name, (dtype, shape) in schema.arrays.items():
        value, skip = rows.x[name], int(name in schema.ragged)
        if value.dtype.str != dtype or value.shape[1 + skip :] != shape[skip:]:
            found = (value.dtype.str, value.shape[1:])
            raise UsageError(f"{where}: {_changed(name, found, (dtype, shape))}")


def _changed(name: str, found: tuple[str, Any], expected: tuple[str, Any]) -> str:
    text = f"output {name!r} is {_kind(found)}, in other simulations {_kind(expected)}"
    if found[0] == expected[0] and found[1][1:] == expected[1][1:]:
        return text + f"; if its length varies, declare it: ragged=[{name!r}]"
    return text + "; every simulation must give the same dtype and shape"


def _kind(array: tuple[str, Any]) -> str:
    return f"{np.dtype(array[0])} {tuple(array[1])}"
