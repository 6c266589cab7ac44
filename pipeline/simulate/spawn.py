"""Starts a worker process with a pipe to it; imports little, so that workers start before what commands them."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe

from pipeline.simulate.calls import environment
from pipeline.simulate.children import marked, stop_signals_pending

POOL = "pipeline.simulate.process_pool"  # the module that a worker runs


def spawn(
    module: str, name: str, cpus: float, path: str | None = None
) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start a worker and return this end of the pipe, and the process.

    Arguments:
        module: that it runs.
        name: of the worker.
        cpus: its cores.
        path: where it imports from beyond what is installed; None: as this process, and from its folder.
    """
    flags = [] if path is None else ["-P"]
    imports = {} if path is None else {"PYTHONPATH": path}
    ours, theirs = Pipe()
    with theirs, stop_signals_pending():
        child = subprocess.Popen(
            [sys.executable, *flags, "-m", module, str(theirs.fileno()), name],
            env=os.environ | environment(cpus) | imports | marked(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        )  # fmt: skip
    return ours, child
