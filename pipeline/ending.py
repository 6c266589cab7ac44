"""How a command ends: with one line for people and an exit code, never with a traceback."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cluster.text import shown
from pipeline.errors import PipelineError, Stopped

SHOW = "SBIFLOW_TRACEBACK"  # environment variable: 1 shows every traceback
INTERRUPTED = 130  # exit code by which Typer tells of Ctrl-C
FORMER_NAME = r".* is deprecated: its name is now "  # begins a warning of ours, which Python hides


@contextmanager
def ending() -> Iterator[None]:
    """Run a command and leave with a line on stderr and the exit code of its error, if there is one."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # where another program has put its own in place
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    show_former_names()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except SystemExit as error:
        if error.code != INTERRUPTED:
            raise
        _leave(Stopped("interrupted; repeat the same command to continue"))
    except KeyboardInterrupt:
        _leave(Stopped("interrupted; repeat the same command to continue"))
    except Exception as error:
        _leave(error)


def show_former_names() -> None:
    """Show each warning of a former name once, as a plain line."""
    others, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        text = str(message)
        if not (issubclass(category, DeprecationWarning) and re.match(FORMER_NAME, text)):
            others(message, category, *place, **more)
        elif text not in told:
            told.add(text)
            print(f"warning: {shown(text)}", file=sys.stderr, flush=True)

    warnings.filterwarnings("always", FORMER_NAME, DeprecationWarning)
    warnings.showwarning = show


def _leave(error: Exception) -> None:
    if os.environ.get(SHOW) == "1":
        print(shown("".join(traceback.format_exception(error))), file=sys.stderr)
    with suppress(OSError):
        print(f"sbiflow: {shown(message(error))}", file=sys.stderr)
    if isinstance(error, OSError):
        _drop_output()
    sys.exit(error.exit_code if isinstance(error, PipelineError) else 1)


def message(error: Exception) -> str:
    """Return what went wrong and what to do; a fault of ours leaves its traceback in a file."""
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, OSError):
        from pipeline.files import ADVICE

        reason = error.strerror or str(error)
        place = f"{error.filename}: " if error.filename else ""
        return (
            f"{place}{reason}; {ADVICE.get(error.errno or 0, 'nothing that was finished is lost')}"
        )
    if isinstance(error, MemoryError):
        if str(error).startswith("out of memory"):  # it says what fits
            return str(error)
        return "the memory is used up: take a machine with more, or ask for less at a time"
    first = (str(error).strip() or "without a message").splitlines()[0]
    return f"{type(error).__name__}: {first}; this is a fault of sbiflow{_kept(error)}"


def _kept(error: Exception) -> str:
    """Write the traceback into a file, where that is possible, and return where it is."""
    try:
        handle, name = tempfile.mkstemp(prefix="sbiflow-", suffix=".traceback")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f": {SHOW}=1 shows where"
    return f": {name} says where"


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that leaving does not fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
