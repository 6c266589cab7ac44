"""Simulations on disk: written by workers, published by one driver, read by any process."""

from pipeline.errors import LockedError
from pipeline.store.damage import Damage, verify
from pipeline.store.errors import DamagedError, IdentityError
from pipeline.store.exchange import export, import_arrays
from pipeline.store.repair import repair
from pipeline.store.rows import Failure, Outcome, Rows, Schema
from pipeline.store.shard_view import ShardView
from pipeline.store.spool import Spool
from pipeline.store.store import FailureRow, Store, TimedRow
from pipeline.store.views import to_dask, to_numpy, to_xarray
from pipeline.store.writer import Writer

__all__ = [
    "Damage",
    "DamagedError",
    "Failure",
    "FailureRow",
    "IdentityError",
    "LockedError",
    "Outcome",
    "Rows",
    "Schema",
    "ShardView",
    "Spool",
    "Store",
    "TimedRow",
    "Writer",
    "export",
    "import_arrays",
    "repair",
    "to_dask",
    "to_numpy",
    "to_xarray",
    "verify",
]
