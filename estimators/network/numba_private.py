"""Everything in `estimators` that Numba does not promise to keep. A test names this file when one is gone.

`numba.core.caching.FunctionCache` and `dispatcher._cache`
    Why: Numba keeps compiled functions on disk with `njit(cache=True)`, which raises where there is no
    writable folder, and on a full disk. A training must run there too; it compiles for itself.
    When they are gone or change: importing this file fails, and with it every training of the
    perceptron on one thread; replace the two by `numba.njit(cache=True, **options)`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import FunctionCache


class _Cache(FunctionCache):
    def save_overload(self, *arguments: Any) -> None:
        with suppress(OSError):  # a full disk: the next process compiles again
            super().save_overload(*arguments)


def compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Return a function that Numba compiles at its first call and keeps where there is a place for it.

    Arguments:
        function: what to compile.
        options: of `numba.njit`.
    """
    dispatcher = numba.njit(**options)(function)
    with suppress(RuntimeError):  # no such place: every process compiles for itself
        dispatcher._cache = _Cache(function)
    return dispatcher
