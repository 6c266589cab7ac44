"""What can go wrong in the store."""

from __future__ import annotations

from pipeline.errors import PipelineError, UsageError


class IdentityError(UsageError):
    """The store holds simulations of another simulator, prior, seed or block size."""


class LockedError(PipelineError):
    """Another process is writing this store."""


class DamagedError(PipelineError):
    """A file of the store is not what its writer left."""
