"""A run of `sbiflow` for one line of a table: it is started, or continued, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory

FOLDER = Path("runs/images")


def completed(folder: Path, config: dict[str, Any]) -> tuple[Results, dict[str, float]]:
    """Return the results of a run and what it cost; a repeat has the configuration of the first start.

    Arguments:
        folder: the run directory; the configuration lies beside it.
        config: the content of the configuration.

    Raises:
        RuntimeError: the command failed.

    Returns:
        The results, and `peak_gb` of memory, `cpu_s` of this command, `steps` and wall seconds `train_s`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f"{folder.name}.yaml")
    if not file.exists():
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "run", str(file), "-o", str(folder)]
    child = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{folder}: exit code {child.returncode}")
    run = RunDirectory(folder)
    results = Results(run, latest_training(run))
    done = results.done()
    assert done is not None
    return results, {
        "peak_gb": usage.ru_maxrss / 2**20,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "steps": done["steps"],
        "train_s": done["seconds"],
        "validation_loss": done["best_validation_loss"],
    }
