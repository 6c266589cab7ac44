"""State of a process that simulators may change and that the pipeline's own code relies on.

A simulator's changes stay in force between its simulations, since later ones may need them. While the pipeline's
code runs between two simulations the original state is restored.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

RECURSION = 1000  # calls deep; the pipeline needs fewer


class ProcessState:
    """The state of this process before the first simulation."""

    def __init__(self) -> None:
        self._umask = os.umask(0)
        os.umask(self._umask)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the umask, ignore floating-point errors and warnings, and keep files from replacing stdout."""
        changed = os.umask(self._umask)
        _open_standard_files()
        try:
            with np.errstate(all="warn", under="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            os.umask(changed)


def _open_standard_files() -> None:
    """Open the null device in place of closed standard files: else the next file opened would replace them."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def ensure_recursion() -> None:
    """Raise a recursion limit that is too low for the pipeline's code."""
    if sys.getrecursionlimit() < RECURSION:
        sys.setrecursionlimit(RECURSION)
