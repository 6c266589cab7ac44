"""Locks between processes on open files, by `flock(2)`.

The kernel releases a lock when the last handle of the open file is closed, also when the process is killed, so
that no lock is ever stale. The library `filelock` cannot be used here: it opens, truncates and closes files
itself, whereas a spool is locked while it holds rows, a folder's lock is taken before the folder is visible
under its name, and readers of a store share a lock.
"""

from __future__ import annotations

import fcntl
from typing import TextIO

HasDescriptor = int | TextIO


def lock(file: HasDescriptor, shared: bool = False) -> None:
    """Lock an open file; wait while another process holds it.

    Arguments:
        file: open file or its descriptor.
        shared: together with others that ask for a shared lock.

    Raises:
        OSError: the file system has no locks.
    """
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(file: HasDescriptor, shared: bool = False) -> bool:
    """Lock an open file unless another process holds it, and return whether it is locked now.

    Arguments:
        file: open file or its descriptor.
        shared: together with others that ask for a shared lock.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
