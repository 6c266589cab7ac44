"""A directory of simulations, each known by its id; see `docs/store_format.md`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError, UsageError
from pipeline.files import canonical, read_document, write_document, writing
from pipeline.run import STREAMS
from pipeline.store.errors import DamagedError, IdentityError, mending
from pipeline.store.hash import LANES, digest
from pipeline.store.index import Index
from pipeline.store.manifest import slowest
from pipeline.store.ranges import Ranges
from pipeline.store.reader import NAME as READERS
from pipeline.store.reader import Reader
from pipeline.store.rows import Failure, Outcome, Rows, Schema, concatenate
from pipeline.store.shard import Shard
from pipeline.store.shard_view import ShardView
from pipeline.store.spool import SHARD_BYTES, scan

FORMAT = 1  # of store.json; shards have formats of their own
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
    """Simulations of one identity. Reading never writes; `pipeline.store.Writer` writes."""

    def __init__(self, path: Path, identity: dict[str, Any], shard_bytes: int) -> None:
        self.path, self.identity, self.shard_bytes = path, identity, shard_bytes
        self._schema: Schema | None = None
        self._index = Index.empty()
        self._reader: Reader | None = None
        self._frozen = False

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
            (path / READERS).touch()
        content = {"format": FORMAT, "identity": identity, "shard_bytes": shard_bytes}
        if schema is not None:
            write_document(path / "schema.json", schema.spec())
        write_document(path / "store.json", content)
        return cls(path, identity, shard_bytes)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open a store; `UsageError` if there is none, `DamagedError` if store.json is damaged or another's."""
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
        stream = content["identity"].get("stream", path.name)
        if path.name in STREAMS and stream != path.name:
            raise DamagedError(f"{path / 'store.json'} is not of this store, but of {stream!r}")
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

    @property
    def schema(self) -> Schema | None:
        """Outputs of the simulator, `None` before the first row that has any."""
        if self._schema is None:
            try:
                self._schema = Schema.from_spec(read_document(self.path / "schema.json"))
            except FileNotFoundError:
                if any(name.startswith("x/") for s in self.index.shards for name in s.arrays):
                    raise DamagedError(
                        f"{self.path / 'schema.json'} is missing; {mending(self.path)} restores it"
                    ) from None
            except DamagedError as error:
                raise DamagedError(f"{error}; {mending(self.path)} restores it") from error
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
        """The rows of all published shards; new shards are included, except in a `snapshot`."""
        if self._frozen:
            return self._index
        self._reader = self._reader or Reader(self.path)
        paths = self._published()
        known = [shard.path for shard in self._index.shards]
        if paths[: len(known)] != known:
            self._index, known = Index.empty(), []
        if new := [Shard(path, self._reader) for path in paths[len(known) :]]:
            self._index = self._index.with_shards(new)
        return self._index

    def _published(self) -> list[Path]:
        """Return the shards in the order of their numbers.

        While a folder is listed a merged shard may appear and its parts vanish: two listings must agree.
        """
        before = None
        while True:
            names = sorted(path.name for path in (self.path / "shards").iterdir())
            if names == before:
                return [self.path / "shards" / name for name in names if name.isdecimal()]
            before = names

    def snapshot(self) -> Store:
        """Return this store as it is now, without shards that are published later."""
        store = Store(self.path, self.identity, self.shard_bytes)
        store._schema, store._index = self.schema, self.index
        store._reader, store._frozen = self._reader, True
        return store

    def forget(self) -> None:
        """Forget the shards, so that merged ones can be deleted."""
        self._index, self._reader = Index.empty(), None

    def ids(self, outcome: Outcome | None = None, budget: int | None = None) -> np.ndarray:
        """Return the published ids (n,), sorted, of one outcome or of all."""
        return self.ranges(*([] if outcome is None else [outcome]), budget=budget).ids()

    def ranges(self, *outcomes: Outcome, budget: int | None = None) -> Ranges:
        """Return the published ids with one of these outcomes, or with any, as ranges."""
        index = self.index.below(budget)
        return (index.of(*outcomes) if outcomes else index).ranges

    def missing(self, budget: int) -> np.ndarray:
        """Return the ids (n,) below `budget` that no published shard holds, sorted."""
        return self.absent(budget).ids()

    def absent(self, budget: int) -> Ranges:
        """Return the same ids as ranges, which take little memory."""
        return self.ranges(budget=_checked(budget)).gaps(0, budget)

    def counts(self, budget: int | None = None) -> dict[str, int]:
        """Return how many rows are durable, by outcome; rows in live spools count as well.

        Without a budget nothing is missing.
        """
        durable = list(
            self._durable()
        )  # before the index: a shard published meanwhile is in one of them
        index = self.index.with_rows(durable).below(None if budget is None else _checked(budget))
        tally = {kind: int(index.count[index.outcome == kind].sum()) for kind in Outcome}
        named = {kind.name.lower(): number for kind, number in tally.items()}
        done = sum(tally.values())
        return {"done": done, **named, "missing": 0 if budget is None else budget - done}

    def _durable(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (ids, outcome) of rows that are not published: of spools, then of finished shards."""
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
        """Return a hash of identity and rows; equal for any layout, order and history.

        It is computed from sealed manifests; columns are read only of shards of which not all rows count.
        """
        index = self.index.below(budget)
        total = np.zeros(LANES, np.uint64)
        for shard, found in index.by_shard():
            sums = shard.manifest.hashes
            if sums is None or len(found) < shard.manifest.rows:
                sums = found.column("hash").sum(axis=0)
            total += sums
        return digest(self.identity, len(index), total)

    def shards(self, budget: int | None = None) -> list[ShardView]:
        """Return the ok rows below `budget` as one lazy view per shard."""
        return self._views(self.index.below(budget).of(Outcome.OK))

    def _views(self, index: Index) -> list[ShardView]:
        return [ShardView(shard, found, self.schema) for shard, found in index.by_shard()]

    def rows(self, ids: np.ndarray) -> Rows:
        """Return the rows of ids (n,) in that order, whatever their outcome.

        Raises `UsageError` for ids the store does not hold.
        """
        index, ids = self.index, np.atleast_1d(np.asarray(ids, np.int64))
        _, there = index.find(ids)
        if not there.all():
            raise UsageError(f"{self.path} holds no simulation {_listed(ids[~there])}")
        batches = [view.with_failures() for view in self._views(index.at(np.unique(ids)))]
        if not batches:
            return _no_rows(len(self.names))
        rows = concatenate(batches, self.schema)
        order = np.argsort(rows.ids)
        return rows.take(order[np.searchsorted(rows.ids, ids, sorter=order)])

    def parameters(
        self, budget: int | None = None, start: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (n,), sorted, and the parameters (n, D) of all rows, whatever their outcome.

        Arguments:
            budget: ids from here on are left out.
            start: ids below are left out.
        """
        index = self.index.below(budget)
        index = (
            index.between(start, int(index.first[-1] + index.count[-1])) if len(index) else index
        )
        return index.ranges.ids(), index.column("theta").reshape(-1, len(self.names))

    def failures(self, budget: int | None = None) -> list[FailureRow]:
        """Return the rows that are not ok, in id order."""
        bad = [kind for kind in Outcome if kind is not Outcome.OK]
        rows = self.rows(self.index.below(budget).of(*bad).ranges.ids())
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
        found: list[tuple[int, float]] = []
        for shard, part in self.index.below(budget).by_shard():
            known = shard.manifest.slowest
            if known is None or n > len(known) or len(part) < shard.manifest.rows:
                known = slowest(part.ranges.ids(), part.column("seconds"), n)
            found += known
        slow = sorted(found, key=lambda one: (-one[1], one[0]))[:n]
        rows = self.rows(np.array([number for number, _ in slow], np.int64))
        return [
            TimedRow(int(rows.ids[k]), Outcome(int(rows.outcome[k])), rows.theta[k], seconds)
            for k, (_, seconds) in enumerate(slow)
        ]


def _names(identity: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameters' names in the order of the columns of theta, none if it has no prior."""
    simulator = identity.get("simulator")
    prior = identity.get("prior") or (simulator.get("prior") if isinstance(simulator, dict) else {})
    prior = prior if isinstance(prior, dict) else {}
    names = identity.get("names") or prior.get("names")
    return tuple(names if isinstance(names, list) else prior)


def _listing(folder: Path, pattern: str) -> list[Path]:
    """Return the matching paths; the listing is repeated if a session is published meanwhile."""
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
