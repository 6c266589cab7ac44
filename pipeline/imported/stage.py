"""Runs of imported simulations: pairs (theta, x) from files instead of a simulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import simulators
from pipeline import config as configuration
from pipeline.config import IMPORTED, Config
from pipeline.errors import UsageError
from pipeline.imported.arrays import Arrays, read_arrays
from pipeline.run import STREAMS, RunDirectory
from pipeline.store import Outcome, Store, import_arrays
from pipeline.store.exchange import check_outputs, checked_theta
from pipeline.streams import RunStream

TEST = 100  # rows that are held out
OUTPUT, LENGTHS = "x/", "lengths/"  # as `sbiflow store export` names them
NO_OUTPUTS = ("theta", "id")


@dataclass(frozen=True)
class Pairs:
    """Parameters theta (n, D) with their names, outputs x by name, each (n, ...), and the prior if it is known."""

    names: tuple[str, ...]
    theta: np.ndarray
    x: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]  # of ragged outputs, each (n,)
    prior: dict[str, Any] | None = None

    def split(self, test: int, seed: int) -> dict[str, np.ndarray]:
        """Return the rows (sorted) of each stream; those to test are drawn without replacement."""
        n = len(self.theta)
        if not 0 <= test < n:
            raise UsageError(f"test={test}: valid is 0 <= test < {n}, the number of rows")
        order = np.random.default_rng([seed, RunStream.SPLIT]).permutation(n)
        return {"train": np.sort(order[test:]), "test": np.sort(order[:test])}


def read_pairs(
    theta: Path, x: Path, names: Iterable[str] = (), prior: Mapping[str, Any] | None = None
) -> Pairs:
    """Read parameters and outputs.

    Arguments:
        theta: .npy or .csv (n, D), or .npz with `theta`.
        x: .npy or .csv (n, ...), the output "x", or .npz with outputs by name.
        names: of the parameters; none: those in the file, of the prior, or theta_1 ... theta_D.
        prior: the distribution of theta, as in a configuration.

    Raises:
        UsageError: files that cannot be read or do not fit each other; names or values that are not the prior's.
    """
    parameters = read_arrays(theta)
    values = _theta(parameters)
    outputs, lengths = _outputs(parameters if x == theta else read_arrays(x))
    known = _prior(prior)
    default = tuple(f"theta_{k + 1}" for k in range(values.shape[-1] if values.ndim else 0))
    sources = {
        "--names": tuple(names),
        str(theta): parameters.columns,
        "the prior": known.names if known else (),
    }
    chosen = next((found for found in sources.values() if found), default)
    for source, found in sources.items():
        if found and found != chosen:
            first = next(source for source, found in sources.items() if found)
            raise UsageError(f"parameter names: {first} has {list(chosen)}, {source} {list(found)}")
    values = checked_theta(values, chosen)
    check_outputs(outputs | lengths, len(values))
    if known is not None:
        _check_inside(values, known)
    return Pairs(chosen, values, outputs, lengths, known.spec() if known else None)


def _theta(file: Arrays) -> np.ndarray:
    arrays = file.arrays
    found = arrays.get("theta", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if found is None:
        raise UsageError(f"{file.path} holds {', '.join(arrays)}: one must be called theta")
    return found[:, None] if found.ndim == 1 else found


def _outputs(file: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return outputs by name, and the lengths of ragged ones."""
    arrays = {name or "x": values for name, values in file.arrays.items() if name not in NO_OUTPUTS}
    lengths = {name: v for name, v in arrays.items() if name.startswith(LENGTHS)}
    outputs = {name.removeprefix(OUTPUT): v for name, v in arrays.items() if name not in lengths}
    if bad := [name for name in outputs if not name.isidentifier()]:
        raise UsageError(f"{file.path}: output name {bad[0]!r} must be a Python identifier")
    return outputs, {name.removeprefix(LENGTHS): v for name, v in lengths.items()}


def _prior(spec: Mapping[str, Any] | None) -> simulators.Prior | None:
    if spec is None:
        return None
    try:
        return simulators.prior_from(spec)
    except (TypeError, ValueError) as error:
        raise UsageError(f"prior: {error}") from None


def _check_inside(theta: np.ndarray, prior: simulators.Prior) -> None:
    outside = (theta < prior.low) | (theta > prior.high)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise UsageError(
            f"theta lies outside the prior in {outside.any(axis=1).sum()} rows, first in row {row}: "
            f"{prior.names[column]} = {theta[row, column]:g}, "
            f"valid is {prior.low[column]:g} to {prior.high[column]:g}"
        )


def configure(pairs: Pairs, run: RunDirectory, test: int, words: Iterable[str]) -> Config:
    """Return the configuration of a run of these pairs, with overrides.

    Raises:
        UsageError: a wrong override, or the run exists and is another one.
    """
    values = configuration.kept(run) or {}
    values |= {
        "name": run.path.resolve().name,
        "simulator": {"name": IMPORTED, "arguments": {"names": list(pairs.names)}},
        "prior": pairs.prior,
        "budget": max(1, len(pairs.theta) - test),
        "test": test,
    }
    config = configuration.resolve(run, values, words)
    if config.simulator.name != IMPORTED:
        raise UsageError(f"simulator = {config.simulator.name!r}: imported pairs have none")
    return config


def import_pairs(config: Config, run: RunDirectory, pairs: Pairs) -> dict[str, Store]:
    """Write the pairs to the stores of a run; a repeat with the same pairs completes what is missing.

    Raises:
        UsageError: the run holds other simulations, or budget and test ask for more rows than there are.
    """
    rows = pairs.split(config.test, config.seed)
    if config.budget > len(rows["train"]):
        raise UsageError(
            f"budget={config.budget}: {len(pairs.theta)} rows without {config.test} to test "
            f"leave {len(rows['train'])} to train"
        )
    stores = {}
    for stream in STREAMS:
        at = rows[stream]
        if len(at):
            stores[stream] = import_arrays(
                run.store(stream),
                pairs.theta[at],
                {name: values[at] for name, values in pairs.x.items()},
                pairs.names,
                {name: values[at] for name, values in pairs.lengths.items()},
                int(config.store.shard_mb * 2**20),
                pairs.prior,
                at,
            )
    return stores


def parameters(run: RunDirectory, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return the parameters of at most so many training rows that are ok, drawn without replacement."""
    store = Store.open(run.store("train"))
    ids = store.ids(Outcome.OK)
    return store.rows(np.sort(rng.permutation(ids)[:most])).theta


def require_complete(config: Config, run: RunDirectory, retry: str | None = None) -> None:
    """Check that a run has all simulations of its budgets, as it has no simulator to run more.

    Raises:
        UsageError: some are missing, or `retry` is given.
    """
    if retry:
        raise UsageError(f"--retry {retry}: imported simulations have no simulator to run again")
    for stream, key in zip(STREAMS, ("budget", "test"), strict=True):
        asked, path = getattr(config, key), run.store(stream)
        store = Store.open(path) if (path / "store.json").exists() else None
        if asked and (store is None or len(store.missing(asked))):
            have = len(store.ids()) if store else 0
            raise UsageError(
                f"{key}={asked}: {run.path} has {have} imported simulations to {stream} and no simulator "
                "to run more; a larger set goes into a run of its own"
            )
