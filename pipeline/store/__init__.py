"""Simulations on disk: written by actors, published by one driver, read by anyone."""

from pipeline.store.errors import DamagedError, IdentityError, LockedError
from pipeline.store.repair import Problem
from pipeline.store.rows import Failure, Outcome, Rows, Schema
from pipeline.store.spool import Spool
from pipeline.store.store import FailureRow, Store, TimedRow
from pipeline.store.views import ShardView
from pipeline.store.writer import Writer

__all__ = [
    "DamagedError",
    "Failure",
    "FailureRow",
    "IdentityError",
    "LockedError",
    "Outcome",
    "Problem",
    "Rows",
    "Schema",
    "ShardView",
    "Spool",
    "Store",
    "TimedRow",
    "Writer",
]
