"""Export of rows to files, and import of simulations made elsewhere."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.files import canonical_text, writing
from pipeline.store.rows import KINDS, Failure, Outcome, Rows, Schema
from pipeline.store.spool import SHARD_BYTES, Spool
from pipeline.store.store import Store
from pipeline.store.views import Arrays, dataset, to_numpy
from pipeline.store.writer import Writer

SUFFIXES = {".npz": "npz", ".nc": "netcdf"}


Observe = Callable[[dict[str, np.ndarray], np.ndarray], dict[str, np.ndarray]]


def _arrays(store: Store, budget: int | None, observe: Observe | None) -> Arrays:
    """Return what is exported: with `observe` also what is observed of the outputs, as `observed_NAME`."""
    ids, theta, x, lengths = to_numpy(store, budget)
    if observe is not None:
        x |= {f"observed_{name}": values for name, values in observe(x, ids).items()}
    return ids, theta, x, lengths


def _write_npz(store: Store, path: Path, budget: int | None, observe: Observe | None) -> None:
    ids, theta, x, lengths = _arrays(store, budget, observe)
    arrays = {"id": ids, "theta": theta, "names": np.array(store.names)}
    arrays |= {f"x/{name}": values for name, values in x.items()}
    arrays |= {f"lengths/{name}": values for name, values in lengths.items()}
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs see only allow_pickle


def _write_netcdf(store: Store, path: Path, budget: int | None, observe: Observe | None) -> None:
    dataset(store, *_arrays(store, budget, observe)).to_netcdf(path, engine="h5netcdf")


FORMATS = {"npz": _write_npz, "netcdf": _write_netcdf}


def export(
    store: Store,
    path: Path | str,
    format: str | None = None,
    budget: int | None = None,
    observe: Observe | None = None,
) -> Path:
    """Write the ok rows below `budget`, in id order, as one file that appears whole or not at all.

    `format` is `npz` (id, theta, names, x/NAME, lengths/NAME) or `netcdf`; `None` takes it from the
    suffix. `observe` gives what is observed of outputs and their ids, which is written beside them. All
    rows are held in memory.
    """
    path = Path(path)
    format = format or SUFFIXES.get(path.suffix)
    if format not in FORMATS:
        raise UsageError(
            f"cannot export to {path} with format {format!r}; valid are {sorted(FORMATS)}, "
            f"or a path that ends in {sorted(SUFFIXES)}"
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            FORMATS[format](store, Path(name), budget, observe)
            os.fsync(handle)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
    return path


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
    """Make a store of simulations made elsewhere, with the ids 0..n-1.

    Arguments:
        path: folder of the store; one with the same content is completed.
        theta: parameters (n, D), finite.
        x: outputs (n, ...), or several by name; rows with NaN or infinity become `INVALID`.
        names: the D parameter names.
        lengths: lengths (n,) of each ragged output; values beyond are not kept.
        prior: the distribution of theta, in the form of `simulators.prior_from`, if it is known.
        rows: original numbers (n,) of the rows, for messages; None: the ids.

    Raises `UsageError` for shapes, dtypes and names that do not fit.
    """
    theta = checked_theta(np.asarray(theta), tuple(names))
    outputs = dict(x) if isinstance(x, Mapping) else {"x": np.asarray(x)}
    outputs = {name: np.asarray(outputs[name]) for name in sorted(outputs)}
    lengths = {name: np.asarray(values) for name, values in (lengths or {}).items()}
    check_outputs(outputs, len(theta))
    schema = Schema(
        {name: (values.dtype.str, values.shape[1:]) for name, values in outputs.items()},
        frozenset(lengths),
    )
    outputs = {name: values.astype(schema.arrays[name][0]) for name, values in outputs.items()}
    outcome = _outcome(outputs, np.arange(len(theta)) if rows is None else rows)
    whole = Rows(np.arange(len(theta)), theta, outputs, lengths, *outcome).conform(schema)
    identity = {
        "imported": {"names": list(names), "content": _content(whole), "schema": schema.spec()},
        "names": list(names),
    }
    identity |= {"prior": dict(prior)} if prior else {}
    store = Store.open_or_create(path, identity, schema, shard_bytes)
    missing = store.missing(len(theta))
    if len(missing):
        per_shard = schema.rows_per_shard(theta.shape[1], shard_bytes)
        with Writer(store) as writer:
            writer.set_schema(schema)
            with Spool(writer.spool_directory, "import", schema, per_shard, shard_bytes) as spool:
                for start in range(0, len(missing), per_shard):
                    spool.append(whole.take(missing[start : start + per_shard]))
                    writer.publish()
    return store


def checked_theta(theta: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return parameters (n, D) as float64; `UsageError` unless they are finite and have D names."""
    if theta.ndim != 2 or not len(theta) or theta.dtype.kind not in "biuf":
        raise UsageError(f"theta is {theta.dtype} {theta.shape}; it must be real numbers (n, D)")
    if len(names) != theta.shape[1] or len(set(names)) != len(names):
        raise UsageError(f"{list(names)} must be {theta.shape[1]} different parameter names")
    if len(bad := np.flatnonzero(~np.isfinite(theta).all(axis=1))):
        raise UsageError(f"theta holds NaN or infinity in {len(bad)} rows, first in row {bad[0]}")
    return theta.astype("<f8")


def check_outputs(outputs: Mapping[str, np.ndarray], n: int) -> None:
    """Raise `UsageError` unless all outputs hold n rows of numbers."""
    if not outputs:
        raise UsageError("x holds no output")
    for name, values in outputs.items():
        if values.dtype.kind not in KINDS:
            raise UsageError(f"x[{name!r}] has dtype {values.dtype}; it must hold numbers")
        if not values.ndim or len(values) != n:
            raise UsageError(f"x[{name!r}] has shape {values.shape}; theta has {n} rows")


def _outcome(
    outputs: dict[str, np.ndarray], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[Failure, ...]]:
    n = len(rows)
    invalid = np.zeros(n, bool)
    for values in outputs.values():
        invalid |= ~np.isfinite(values.reshape(n, -1)).all(axis=1)
    failures = tuple(
        Failure(int(k), Outcome.INVALID, f"NaN or infinity in the outputs of row {rows[k]}")
        for k in np.flatnonzero(invalid)
    )
    return np.where(invalid, Outcome.INVALID, Outcome.OK), np.zeros(n, np.float32), failures


def _content(rows: Rows) -> str:
    """Return the SHA-256 of the columns."""
    total = hashlib.sha256()
    for name, array in sorted(rows.columns().items()):
        total.update(canonical_text([name, array.dtype.str, array.shape]).encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
