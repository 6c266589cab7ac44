"""The work on one case: train and evaluate on shared simulations, in whichever process."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from cluster.preflight import CodeFingerprint, differences, fingerprint
from pipeline import stages
from pipeline.ending import message
from pipeline.errors import LockedError, PipelineError, Stopped
from pipeline.results import latest_training
from pipeline.simulate.actor import DISTRIBUTIONS, PACKAGES
from pipeline.stop import Stop, stop_on_signals
from pipeline.study.case import StudyCase
from pipeline.study.simulations import Simulations


def work(case: StudyCase, shared: Simulations, stop: Stop) -> str:
    """Train and evaluate a case, continue it, or find it complete; return why it failed, "" if it did not.

    Raises:
        Stopped: a stop was requested; a repeat continues.
        LockedError: another process works on it.
    """
    try:
        with case.run.lock():
            shared.link(case)
            stages.train(case.config, case.run, stop)
            stop.check("study")
            stages.evaluate(case.config, case.run, stop)
            case.mark(training=latest_training(case.run))
    except (Stopped, LockedError):
        raise
    except Exception as error:
        reason = message(error)
        case.mark(failed=reason)
        return reason
    return ""


def work_as_task(
    case: StudyCase, shared: Simulations, output: Path, driver: CodeFingerprint
) -> str:
    """Do the work in a process of Ray; `ray.cancel` stops it.

    Arguments:
        case: what is trained.
        shared: its simulations.
        output: file to which the process writes what it says.
        driver: the code of the process that asks.

    Raises:
        PipelineError: this process runs other code.
        Stopped: a stop was requested; a repeat continues.
    """
    if different := differences(driver, fingerprint(PACKAGES, DISTRIBUTIONS, loaded=True)):
        raise PipelineError(f"its process runs other code than the driver: {different[0]}")
    with (
        output.open("a", encoding="utf-8", buffering=1) as file,
        redirect_stderr(file),
        redirect_stdout(file),
        stop_on_signals() as stop,
    ):
        return work(case, shared, stop)
