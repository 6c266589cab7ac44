"""The specification of a store's simulations, and one simulation: from ids to rows.

The rows of ids that share a key (the id itself, or `id // key_size` for a batched simulator) follow from

    prior_rng, noise_rng = generators(seed, stream, key)
    theta = prior.sample(prior_rng),  x ~ simulator(theta; noise_rng)

A prior that is a data set gives the row that the id leads to, and the output `prior_row` names it.
With the design "sobol" theta is the prior's quantile of a point of the unit cube, see
`pipeline.simulate.seed.points`.
A simulator that raises, takes too long or returns NaN gives a row with the reason. Only outputs that the store
cannot keep, or whose names, shapes or dtypes differ from the schema, are an error of the whole stage.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.simulate.process_state import ensure_recursion
from pipeline.simulate.seed import NOISE, PRIOR, generator, points
from pipeline.store import Failure, Outcome, Rows, Schema
from simulators import DataPrior
from simulators.data_prior import ROW
from simulators.output import OutputError

MOST_TRACEBACK = 8000  # characters kept of one traceback, its end


@dataclass(frozen=True)
class SimulationSpec:
    """What all simulations of one store have in common.

    Attributes:
        simulator: of `simulators.load`.
        seed: the root of all random numbers.
        stream: number of the random stream, see `pipeline.streams.RunStream`.
        key_size: ids that share a key: 1 unless the simulator is batched; `block_size` in the store's identity.
        timeout: seconds of one simulation; None: no limit.
        design: "random" or "sobol", how parameters cover the prior.
    """

    simulator: Any
    seed: int
    stream: int
    key_size: int
    timeout: float | None
    design: str = "random"

    @property
    def origin(self) -> dict[str, Any]:
        """What the parameters follow from, beside the prior: part of the store's identity."""
        return {}

    def key(self, number: int) -> int:
        return int(number) // self.key_size

    def theta(self, ids: np.ndarray) -> np.ndarray:
        """Return the parameters (n, D) of ids that share a key."""
        return self._parameters(self.key(ids[0]))[ids % self.key_size]

    def _parameters(self, key: int) -> np.ndarray:
        """Return the parameters of all ids of a key, shape (block, D)."""
        prior = self.simulator.prior
        if isinstance(prior, DataPrior):
            return prior.rows(self.stream, self._data_rows(key))
        if self.design == "sobol":
            size, first = len(prior.names), key * self.key_size
            theta = prior.quantile(points(self.seed, self.stream, size, first, self.key_size))
        else:
            prior_rng = generator(self.seed, self.stream, key, PRIOR)
            theta = prior.sample(prior_rng, self.key_size)
        return np.asarray(theta)

    def _data_rows(self, key: int) -> np.ndarray:
        """Return the rows of the data set that all ids of a key use, shape (block,)."""
        ids = np.arange(key * self.key_size, (key + 1) * self.key_size)
        numbers: np.ndarray = self.simulator.prior.row_numbers(self.seed, self.stream, ids)
        return numbers

    def run(self, ids: np.ndarray) -> Rows:
        """Simulate ids that share a key.

        Raises:
            UsageError: outputs of a kind that cannot be kept.
        """
        with np.errstate(all="warn", under="ignore"):  # an earlier simulation may have changed them
            noise_rng = generator(self.seed, self.stream, self.key(ids[0]), NOISE)
            theta = self._parameters(self.key(ids[0]))
        started = time.perf_counter()
        try:
            x = self._outputs(theta, noise_rng)
        except OutputError as error:
            raise UsageError(f"simulation {ids[0]}: {error}") from None
        # A simulator may raise anything, also SystemExit and KeyboardInterrupt: all are its failures.
        except BaseException as error:
            seconds = time.perf_counter() - started
            late = isinstance(error, TimeoutError) and self.simulator.owns_timeout
            outcome = Outcome.TIMEOUT if late else Outcome.FAILED
            return self.failed(
                ids, theta[ids % self.key_size], outcome, _reason(error), _trace(error), seconds
            )
        seconds = (time.perf_counter() - started) / len(ids)
        return self._rows(ids, theta, x, seconds)

    def _outputs(self, theta: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return outputs with a first axis over the rows of theta."""
        try:
            if self.simulator.batched:
                return dict(self.simulator.simulate_block(theta, rng))
            x = self.simulator.simulate(theta[0], rng, timeout=self.timeout)
        finally:
            ensure_recursion()
        return {name: value[None] for name, value in x.items()}

    def _rows(
        self, ids: np.ndarray, theta: np.ndarray, x: dict[str, np.ndarray], seconds: float
    ) -> Rows:
        n = len(ids)
        if isinstance(self.simulator.prior, DataPrior):
            x = x | {ROW: self._data_rows(self.key(ids[0]))}
        if n < len(theta):
            theta, x = theta[ids % self.key_size], {k: v[ids % self.key_size] for k, v in x.items()}
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
        if self.key_size > 1:
            message = f"{message} (in a block of {self.key_size})"
        trace = trace[-MOST_TRACEBACK:]  # with the first id of a key alone
        failures = tuple(
            Failure(int(number), outcome, message, "" if k else trace)
            for k, number in enumerate(ids)
        )
        column = np.full(n, seconds / n, np.float32)
        return Rows(ids, theta, {}, {}, np.full(n, outcome, np.uint8), column, failures)


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
    """Return the schema of rows that have outputs.

    Raises:
        UsageError: an output has a name that the store or training cannot use.
    """
    for name in ragged:
        if (mask := f"{name}_mask") in rows.x:
            raise UsageError(
                f"output {mask!r} has the name that training gives to the mask of the ragged output "
                f"{name!r}: call it something else"
            )
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
