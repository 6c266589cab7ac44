"""What can go wrong, each with the exit code that scripts rely on."""

from __future__ import annotations


class PipelineError(Exception):
    """The work failed for a reason that is not the user's: exit code 1."""

    exit_code = 1


class UsageError(PipelineError, ValueError):
    """The configuration or the command line is wrong: exit code 2, nothing was written."""

    exit_code = 2


class LockedError(PipelineError):
    """Another process holds the run or the store: exit code 1."""


class DamagedError(PipelineError):
    """A file is not what its writer left: exit code 1. The message names it and what makes it anew."""


class TooManyFailed(PipelineError):
    """The stage finished, but more simulations failed than `max_failed` allows: exit code 3."""

    exit_code = 3


class Stopped(PipelineError):
    """The stage was asked to stop; all finished work is committed and a repeat continues: exit code 4."""

    exit_code = 4
