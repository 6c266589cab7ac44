"""A directory of simulations, each known by its id; see `docs/store_format.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PipelineError, UsageError
from pipeline.store import views
from pipeline.store.errors import IdentityError
from pipeline.store.files import canonical, read_document, write_document, writing
from pipeline.store.hash import LANES, digest
from pipeline.store.index import Index
from pipeline.store.repair import Problem, repair, verify
from pipeline.store.rows import Failure, Outcome, Rows, Schema, concatenate, winners
from pipeline.store.shard import FORMAT, Shard
from pipeline.store.spool import SHARD_BYTES, scan
from pipeline.store.views import ShardView

if TYPE_CHECKING:
    from xarray import Dataset

    from pipeline.store.writer import Writer

LEAST_SHARD_BYTES, MOST_SHARD_BYTES = 1 << 10, 1 << 30


@dataclass(frozen=True, eq=False)
class FailureRow:
    """A simulation that is not ok, with its parameters (D,) and its reason."""

    id: int
    outcome: Outcome
    theta: np.ndarray
    message: str
    traceback: str
    seconds: float


@dataclass(frozen=True, eq=False)
class TimedRow:
    """A simulation, its parameters (D,) and how long it ran."""

    id: int
    outcome: Outcome
    theta: np.ndarray
    seconds: float


class Store:
    """Simulations of one identity. Reading never writes; writing goes through `writer()`."""

    def __init__(self, path: Path, identity: dict[str, Any], shard_bytes: int) -> None:
        self.path, self.identity, self.shard_bytes = path, identity, shard_bytes
        self._schema: Schema | None = None
        self._index = Index()

    @classmethod
    def create(
        cls,
        path: Path | str,
        identity: dict[str, Any],
        schema: Schema | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> Store:
        """Make an empty store; `UsageError` if the folder holds one already."""
        path = Path(path)
        if not LEAST_SHARD_BYTES <= shard_bytes <= MOST_SHARD_BYTES:
            valid = f"{LEAST_SHARD_BYTES} to {MOST_SHARD_BYTES}"
            raise UsageError(f"shard_bytes is {shard_bytes}; valid are {valid}")
        if (path / "store.json").exists():
            raise UsageError(f"{path} holds a store already: open it, or choose another folder")
        if (path / "shards").exists() and any((path / "shards").iterdir()):
            raise PipelineError(f"{path} holds shards but no store.json: restore it from a copy")
        try:
            identity = canonical(identity)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the identity of a store must be JSON: {error}") from error
        with writing(path):
            for folder in ("sessions", "shards"):
                (path / folder).mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "identity": identity, "shard_bytes": shard_bytes}
        if schema is not None:
            write_document(path / "schema.json", schema.spec())
        write_document(path / "store.json", content)
        return cls(path, identity, shard_bytes)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open a store; `UsageError` if there is none, `DamagedError` if store.json is damaged."""
        path = Path(path)
        try:
            content = read_document(path / "store.json")
        except FileNotFoundError:
            raise UsageError(f"{path} holds no store (no store.json)") from None
        except OSError as error:
            raise PipelineError(f"cannot read {path / 'store.json'}: {error.strerror}") from error
        if content["format"] > FORMAT:
            raise PipelineError(
                f"{path} has store format {content['format']}, this version reads up to {FORMAT}: "
                "update sbiflow"
            )
        return cls(path, content["identity"], content["shard_bytes"])

    @classmethod
    def open_or_create(
        cls,
        path: Path | str,
        identity: dict[str, Any],
        schema: Schema | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> Store:
        """Open a store of this identity or make one; `IdentityError` shows how another one differs."""
        if not (Path(path) / "store.json").exists():
            return cls.create(path, identity, schema, shard_bytes)
        store = cls.open(path)
        new = canonical(identity)
        changes = list(_differences(store.identity, new))
        if not changes and _names(new) != _names(store.identity):
            changes = [f"order of parameters: {store.names} -> {_names(new)}"]
        if changes:
            raise IdentityError(
                f"{path} holds simulations of another identity:\n  "
                + "\n  ".join(changes)
                + "\nuse another folder, or the configuration that made this one"
            )
        return store

    def writer(self) -> Writer:
        """Return the context manager through which one driver at a time writes."""
        from pipeline.store.writer import Writer

        return Writer(self)

    @property
    def schema(self) -> Schema | None:
        """Outputs of the simulator, `None` before the first row that has any."""
        if self._schema is None and (self.path / "schema.json").exists():
            self._schema = Schema.from_spec(read_document(self.path / "schema.json"))
        return self._schema

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, columns of theta: the identity's `names`, or those of its prior."""
        if names := _names(self.identity):
            return names
        columns = self.index.shards[0].arrays["theta"][1][1] if self.index.shards else 0
        return tuple(f"theta_{column}" for column in range(columns))

    @property
    def index(self) -> Index:
        """The rows of all published shards; follows what a writer publishes meanwhile."""
        folder = self.path / "shards"
        paths = sorted(path for path in folder.iterdir() if path.name.isdecimal())
        known = [shard.path for shard in self._index.shards]
        if paths[: len(known)] != known:
            self._index, known = Index(), []
        if new := [Shard(path) for path in paths[len(known) :]]:
            self._index = self._index.with_shards(new)
        return self._index

    def ids(self, outcome: Outcome | None = None, budget: int | None = None) -> np.ndarray:
        """Return the published ids (n,), sorted, of one outcome or of all."""
        index = self.index
        part = index.below(budget)
        ids = index.ids[part]
        return ids if outcome is None else ids[index.outcome[part] == outcome]

    def missing(self, budget: int) -> np.ndarray:
        """Return the ids (n,) below `budget` that no published shard holds, sorted."""
        absent = np.ones(_checked(budget), bool)
        absent[self.ids(budget=budget)] = False
        return np.flatnonzero(absent)

    def counts(self, budget: int | None = None) -> dict[str, int]:
        """Return how many rows are durable, by outcome; rows in live spools count as well.

        Without a budget nothing is missing.
        """
        durable = list(self._durable())
        index = self.index
        ids = np.concatenate([index.ids, *(ids for ids, _ in durable)])
        outcome = np.concatenate([index.outcome, *(outcome for _, outcome in durable)])
        if durable:
            best = winners(ids, outcome)
            ids, outcome = ids[best], outcome[best]
        if budget is not None:
            outcome = outcome[: np.searchsorted(ids, _checked(budget))]
        tally = np.bincount(outcome, minlength=len(Outcome))
        named = {kind.name.lower(): int(tally[kind]) for kind in Outcome}
        done = len(outcome)
        return {"done": done, **named, "missing": 0 if budget is None else budget - done}

    def _durable(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (ids, outcome) of rows on their way into a shard: of spools, then of ready shards."""
        sessions = self.path / "sessions"
        for path in [*_listing(sessions, "**/*.spool"), *_listing(sessions, "**/*.folding")]:
            try:
                with open(path, "rb") as file:
                    yield from [(entry.ids, entry.outcome) for entry in scan(file)]
            except FileNotFoundError:
                continue  # folded meanwhile
        for path in _listing(sessions, "**/*.ready"):
            shard = Shard(path)
            try:
                yield shard.read("id"), shard.read("outcome")
            except PipelineError:
                continue  # published meanwhile

    def digest(self, budget: int | None = None) -> str:
        """Return a hash of identity and rows; equal for any layout, order and history."""
        index = self.index
        part = index.below(budget)
        entries = np.arange(part.stop)
        total = np.zeros(LANES, np.uint64)
        for shard, found in index.by_shard(entries):
            hashes = shard.read("hash")
            total += (hashes if len(found) == len(shard) else hashes[index.row[found]]).sum(axis=0)
        return digest(self.identity, len(entries), total)

    def shards(self, budget: int | None = None) -> list[ShardView]:
        """Return the ok rows below `budget` as one lazy view per shard."""
        index = self.index
        ok = np.flatnonzero(index.outcome[index.below(budget)] == Outcome.OK)
        return [
            ShardView(shard.path, index.ids[found], index.row[found], self.schema)
            for shard, found in index.by_shard(ok)
        ]

    def rows(self, ids: np.ndarray) -> Rows:
        """Return the rows of ids (n,) in that order, whatever their outcome.

        Raises `UsageError` for ids the store does not hold.
        """
        index, ids = self.index, np.atleast_1d(np.asarray(ids, np.int64))
        at, there = index.find(ids)
        if not there.all():
            raise UsageError(f"{self.path} holds no simulation {_listed(ids[~there])}")
        wanted = np.unique(at)
        batches = []
        for shard, found in index.by_shard(wanted):
            view = ShardView(shard.path, index.ids[found], index.row[found], self.schema)
            batches.append(view.with_failures())
        if not batches:
            return _no_rows(len(self.names))
        rows = concatenate(batches, self.schema)
        order = np.argsort(rows.ids)
        return rows.take(order[np.searchsorted(rows.ids, ids, sorter=order)])

    def parameters(self, budget: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (n,), sorted, and the parameters (n, D) of all rows, whatever their outcome."""
        index = self.index
        entries = np.arange(index.below(budget).stop)
        return index.ids[entries], index.theta(entries, len(self.names))

    def failures(self, budget: int | None = None) -> list[FailureRow]:
        """Return the rows that are not ok, in id order."""
        index = self.index
        bad = np.flatnonzero(index.outcome[index.below(budget)] != Outcome.OK)
        rows = self.rows(index.ids[bad])
        reasons = {failure.id: failure for failure in rows.failures}
        found = []
        for k, (number, outcome) in enumerate(zip(rows.ids.tolist(), rows.outcome, strict=True)):
            kind = Outcome(int(outcome))
            reason = reasons.get(number, Failure(number, kind, "no reason was recorded"))
            found.append(
                FailureRow(
                    number,
                    kind,
                    rows.theta[k],
                    reason.message,
                    reason.traceback,
                    rows.seconds[k].item(),
                )
            )
        return found

    def slowest(self, n: int = 10, budget: int | None = None) -> list[TimedRow]:
        """Return the `n` rows that ran longest, the longest first."""
        index = self.index
        seconds = np.zeros(index.below(budget).stop, np.float32)
        for shard, found in index.by_shard(np.arange(len(seconds))):
            seconds[found] = shard.read("seconds")[index.row[found]]
        slow = np.argsort(-seconds, kind="stable")[:n]
        rows = self.rows(index.ids[slow])
        return [
            TimedRow(
                int(rows.ids[k]), Outcome(int(rows.outcome[k])), rows.theta[k], float(seconds[i])
            )
            for k, i in enumerate(slow)
        ]

    def numpy(self, budget: int | None = None) -> views.Arrays:
        """Return (ids, theta, x, lengths) of the ok rows in id order; see `views.to_numpy`."""
        return views.to_numpy(self, budget)

    def dask(self, budget: int | None = None) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
        """Return the same as lazy dask arrays in shard order; see `views.to_dask`."""
        return views.to_dask(self, budget)

    def xarray(self, budget: int | None = None) -> Dataset:
        """Return the ok rows as a lazy xarray Dataset; see `views.to_xarray`."""
        return views.to_xarray(self, budget)

    def export(
        self, path: Path | str, format: str | None = None, budget: int | None = None
    ) -> Path:
        """Write the ok rows as one file; see `exchange.export`."""
        from pipeline.store.exchange import export

        return export(self, path, format, budget)

    @staticmethod
    def import_arrays(
        path: Path | str,
        theta: np.ndarray,
        x: np.ndarray | Mapping[str, np.ndarray],
        names: Sequence[str],
        lengths: Mapping[str, np.ndarray] | None = None,
        shard_bytes: int = SHARD_BYTES,
        prior: Mapping[str, Any] | None = None,
        rows: np.ndarray | None = None,
    ) -> Store:
        """Make a store of ready-made simulations; see `exchange.import_arrays`."""
        from pipeline.store.exchange import import_arrays

        return import_arrays(path, theta, x, names, lengths, shard_bytes, prior, rows)

    def verify(self) -> list[Problem]:
        """Return everything that is not as it was written; see `repair.verify`."""
        return verify(self)

    def repair(self) -> np.ndarray:
        """Put damage aside and return the ids to simulate again; see `repair.repair`."""
        return repair(self)


def _names(identity: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameters' names in the order of the columns of theta, none if it has no prior."""
    simulator = identity.get("simulator")
    prior = identity.get("prior") or (simulator.get("prior") if isinstance(simulator, dict) else {})
    prior = prior if isinstance(prior, dict) else {}
    names = identity.get("names") or prior.get("names")
    return tuple(names if isinstance(names, list) else prior)


def _listing(folder: Path, pattern: str) -> list[Path]:
    """Return what matches now; a session that vanishes while it is listed has been published."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:
        return _listing(folder, pattern)


def _checked(budget: int) -> int:
    if budget < 0:
        raise UsageError(f"budget is {budget}; it must be 0 or more")
    return budget


def _no_rows(parameters: int) -> Rows:
    return Rows(np.zeros(0, np.int64), np.zeros((0, parameters)))


def _listed(ids: np.ndarray) -> str:
    shown = ", ".join(str(number) for number in ids[:5])
    return shown + (f", ... ({len(ids)} in all)" if len(ids) > 5 else "")


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield one line `key: old -> new` for each dotted key that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            inner = f"{key}.{name}" if key else name
            yield from _differences(old.get(name, "(absent)"), new.get(name, "(absent)"), inner)
    elif old != new:
        yield f"{key}: {old!r} -> {new!r}"
