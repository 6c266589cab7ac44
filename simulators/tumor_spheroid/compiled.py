"""How the kernel is compiled: by Numba, once per machine if there is a place to keep the result.

Numba's cache looks at the file of the function that is kept, and would not notice a change of a file
from which that function takes others. Here the key holds a digest of all files of this folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

# Nothing compiled here makes an array, so no function needs to count references to its arguments:
# counting them took two thirds of the run. And only one function is called from Python: making every
# function callable from there took half of the compilation.
OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
njit = numba.njit(no_cpython_wrapper=True, **OPTIONS)


def _sources() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class _PackageCache(FunctionCache):
    """Numba's cache of one function, valid for the present content of all files of this folder."""

    sources = _sources()

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        return (*super()._index_key(*arguments), self.sources)

    def save_overload(self, *arguments: Any) -> None:
        with suppress(OSError):  # a full disk: the next process compiles again
            super().save_overload(*arguments)


def entry_point(function: Callable[..., Any]) -> numba.core.dispatcher.Dispatcher:
    """Compile a function that Python calls, and keep the result.

    It is kept beside the package, in NUMBA_CACHE_DIR or in the user's cache folder; where none of them can
    be written, every process compiles for itself.
    """
    dispatcher = numba.njit(**OPTIONS)(function)
    with suppress(RuntimeError):  # no such place
        dispatcher._cache = _PackageCache(function)
    return dispatcher
