"""Which case runs when: one after the other in this process, or several at a time as tasks of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cluster.preflight import CodeFingerprint, fingerprint
from pipeline.errors import LockedError, PipelineError
from pipeline.simulate.actor import DISTRIBUTIONS, PACKAGES
from pipeline.stop import Stop
from pipeline.study.case import StudyCase
from pipeline.study.simulations import Simulations
from pipeline.study.work import work, work_as_task

POLL = 0.2  # seconds
RETRIES = 1  # of a case whose process died; training goes on where it was
LEAVE = 60.0  # seconds for the tasks to commit and leave

Job = tuple[StudyCase, Simulations]


@dataclass(frozen=True)
class Ended:
    """A case that has ended; `reason` is "" where it is complete."""

    case: StudyCase
    reason: str


def one_by_one(jobs: Sequence[Job], stop: Stop) -> Iterator[Ended]:
    """Work on cases in this process."""
    for case, shared in jobs:
        stop.check("study")
        try:
            yield Ended(case, work(case, shared, stop))
        except LockedError as error:
            yield Ended(case, str(error))


def not_taken(jobs: Sequence[Job], stop: Stop) -> Iterator[Ended]:
    """Work on cases in this process as one of many: what another holds, has done, or has failed at, is left."""
    for case, shared in jobs:
        stop.check("study")
        if case.failure() or case.finished() is not None:
            continue
        with suppress(LockedError):
            yield Ended(case, work(case, shared, stop))


def several(jobs: Sequence[Job], parallel: int, stop: Stop) -> Iterator[Ended]:
    """Work on up to `parallel` cases at a time, as tasks with the resources that they declare.

    Raises:
        Stopped: a stop was requested; every task has committed its work.
    """
    waiting = list(reversed(jobs))
    with Tasks() as tasks:
        while waiting or tasks.running:
            stop.check("study")
            while waiting and len(tasks.running) < parallel:
                tasks.start(*waiting.pop())
            yield from tasks.ended()


class Tasks:
    """The cases that tasks of Ray work on; a context manager that stops them when it is left."""

    def __init__(self) -> None:
        self.running: dict[Any, StudyCase] = {}
        self._code = fingerprint(PACKAGES, DISTRIBUTIONS)

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        for case in list(self.running.values()):
            self.cancel(case)
        if self.running:
            ray.wait(list(self.running), num_returns=len(self.running), timeout=LEAVE)

    def start(self, case: StudyCase, shared: Simulations) -> None:
        """Start the work on a case."""
        self.running[_start(case, shared, self._code)] = case

    def ended(self) -> Iterator[Ended]:
        """Wait a little, and yield the cases that have ended."""
        import ray

        ready, _ = ray.wait(list(self.running), timeout=POLL) if self.running else ([], [])
        for reference in ready:
            yield _ended(self.running.pop(reference), reference)

    def cancel(self, case: StudyCase) -> None:
        """Let a case commit its work and leave."""
        import ray

        for reference, other in self.running.items():
            if other is case:
                ray.cancel(reference)


def _start(case: StudyCase, shared: Simulations, code: CodeFingerprint) -> Any:
    import ray

    train = case.config.train
    options = {"num_cpus": train.threads, "num_gpus": int(train.gpu), "max_retries": RETRIES}
    output = case.run.path / "output.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    remote: Callable[..., Any] = ray.remote(**options)(work_as_task).remote
    return remote(case, shared, output, code)


def _ended(case: StudyCase, reference: Any) -> Ended:
    """Return how a task ended; a case whose process died is marked as failed here."""
    import ray

    try:
        return Ended(case, str(ray.get(reference)))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        reason = str(cause if isinstance(cause, PipelineError) else error).strip()
        reason = reason.splitlines()[-1]
    except ray.exceptions.TaskCancelledError:
        reason = "it was stopped"
    except ray.exceptions.RayError as error:
        reason = f"its process died: {str(error).strip().splitlines()[0]}"
        case.mark(failed=reason)
    return Ended(case, reason)
