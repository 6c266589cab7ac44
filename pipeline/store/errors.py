"""Errors of the store, with what to do about them."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DamagedError, UsageError

__all__ = ["DamagedError", "IdentityError", "damaged", "mending"]


class IdentityError(UsageError):
    """The store holds simulations of another simulator, prior, seed or block size."""


def damaged(shard: Path, what: str) -> DamagedError:
    """Return the error of a damaged shard, which names the shard and the command that repairs it."""
    return DamagedError(
        f"shard {shard} is damaged: {what}; {mending(shard.parent.parent)} repairs it"
    )


def mending(store: Path) -> str:
    """Return the command or call that repairs a damaged store, for messages."""
    run = store.parent.parent if store.parent.name == "store" else None
    return (
        f"`sbiflow store repair -o {run}`"
        if run
        else f"`pipeline.store.repair(Store.open({str(store)!r}))`"
    )
