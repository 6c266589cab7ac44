"""A study from its file to its tables: simulate once, train what is missing, compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import stages
from pipeline.errors import LockedError, PipelineError, UsageError
from pipeline.locks import lock, try_lock
from pipeline.plan.requirements import check_test
from pipeline.progress import Progress, log
from pipeline.simulate.stage import connected
from pipeline.stop import Stop
from pipeline.study import schema
from pipeline.study.case import CASES, StudyCase, cases
from pipeline.study.results import write
from pipeline.study.schedule import Ended, Job, not_taken, one_by_one, several
from pipeline.study.schema import Study
from pipeline.study.simulations import Simulations, from_run, simulations


def prepare(study: Study, folder: Path, words: Iterable[str] = ()) -> list[Simulations]:
    """Return the cases of a study by their simulations, after all that can be checked beforehand.

    Arguments:
        study: what varies.
        folder: of the study.
        words: what may differ from what the cases of the folder were made with, as `key=value`.

    Raises:
        UsageError: a case cannot be, or is another one than the folder has.
    """
    found = cases(study, folder)
    for case in found:
        try:
            stages.configure(case.run, case.config.plain(), words)
            check_test(case.config)
        except UsageError as error:
            raise UsageError(f"case {case.name}: {error}") from None
    shared = simulations(found, folder)
    if study.simulations:
        shared = from_run(shared, study.simulations)
    _say_left_over(found, folder)
    if len(shared) > 1:
        told = (", ".join(f"{k}={v!r}" for k, v in one.differs.items()) for one in shared)
        log(f"study: {len(shared)} stores of simulations, since these differ: {'; '.join(told)}")
    return shared


def _say_left_over(found: Sequence[StudyCase], folder: Path) -> None:
    known = {case.name for case in found}
    others = [path.name for path in sorted(folder.glob(f"{CASES}/*/")) if path.name not in known]
    if others:
        log(
            f"study: {len(others)} cases are not in the study any more, and are kept: {', '.join(others[:5])}"
        )


def study(plan: Study, folder: Path, stop: Stop, words: Iterable[str] = ()) -> dict[str, Any]:
    """Do what is missing of a study, and write its tables.

    Returns:
        The content of `study.json`, see `docs/studies.md`.

    Raises:
        UsageError: the study cannot be, or is another one than the folder has.
        Stopped: a stop was requested; a repeat continues.
    """
    if plan.search:
        with alone(folder):
            return _search(plan, folder, stop)
    shared = prepare(plan, folder, words)  # a study that cannot be leaves no folder
    with alone(folder):
        schema.keep(plan, folder)
        return _work(plan, folder, shared, stop)


def _search(plan: Study, folder: Path, stop: Stop) -> dict[str, Any]:
    """Search, then measure the best settings with fresh seeds."""
    from pipeline.study.search import SearchRun

    if (kept := schema.load(folder)) is not None and (changed := schema.changed(kept, plan)):
        lines = "\n".join(f"  {key}: {old!r} -> {new!r}" for key, (old, new) in changed.items())
        raise UsageError(f"{folder} was searched by another study:\n{lines}\nuse another -o")
    searching = SearchRun(plan, folder)
    schema.keep(plan, folder)
    searching.run(stop)
    found = searching.write()
    log(f"search: {found['metric']} {found['value']:.6g} by {found['best']}; now with fresh seeds")
    final = searching.final(found["best"])
    return {**_work(final, folder, prepare(final, folder), stop), "search": found}


def _work(plan: Study, folder: Path, shared: Sequence[Simulations], stop: Stop) -> dict[str, Any]:
    """Simulate and train what is missing, and write the tables."""
    jobs = [(case, one) for one in shared for case in one.cases]
    open_ = [job for job in jobs if job[0].finished() is None]
    log(f"study: {len(jobs)} cases, {len(jobs) - len(open_)} are complete")
    if open_:
        missing = any(sum(one.missing().values()) for _, one in open_)
        with _workers(plan, [case for case, _ in open_], missing) as parallel:
            failed = _simulate(shared, open_, stop)
            ready = [job for job in open_ if job[0].name not in failed]
            with Progress("study", len(jobs), "cases", len(jobs) - len(open_)) as progress:
                for ended in _run(ready, parallel, stop):
                    _tell(ended, progress)
    return _publish(plan, folder, shared, stop)


def share(plan: Study, folder: Path, stop: Stop, words: Iterable[str] = ()) -> dict[str, Any]:
    """Do the same as one of many processes on one folder; the last to leave has all cases in its tables."""
    if plan.search:
        raise UsageError("a search chooses one trial after another: --share is for axes and cases")
    shared = prepare(plan, folder, words)
    with alone(folder, wait=True):
        schema.keep(plan, folder)
    jobs = [(case, one) for one in shared for case in one.cases]
    open_ = [job for job in jobs if job[0].finished() is None]
    failed = _simulate(shared, open_, stop, share=True)
    ready = [job for job in open_ if job[0].name not in failed]
    with Progress("study", len(jobs), "cases", len(jobs) - len(open_)) as progress:
        for ended in not_taken(ready, stop):
            _tell(ended, progress)
    with alone(folder, wait=True):
        return _publish(plan, folder, shared, stop)


def _publish(
    plan: Study, folder: Path, shared: Sequence[Simulations], stop: Stop
) -> dict[str, Any]:
    """Write the tables, the page and the MLflow experiment; a signal ends it at once, a repeat completes it."""
    from pipeline.study import page, track

    with stop.at_once("tables and tracking"):
        result = write(plan, folder, shared)
        page.write(result, folder)
        track.sync(result, folder, [case for one in shared for case in one.cases])
    return result


def _tell(ended: Ended, progress: Progress) -> None:
    if ended.reason:
        log(f"study: {ended.case.name} failed: {ended.reason}")
    else:
        progress.update(progress.done + 1, ended.case.name)


def _simulate(
    shared: Sequence[Simulations], jobs: Sequence[Job], stop: Stop, share: bool = False
) -> set[str]:
    """Bring all stores up to their budgets; return the cases whose simulations failed."""
    wanted = {one.name for _, one in jobs}
    failed: set[str] = set()
    for one in shared:
        if one.name not in wanted:
            continue
        try:
            one.simulate(stop, share)
        except LockedError:
            raise
        except PipelineError as error:
            stop.check("study")
            log(f"study: simulations {one.name}: {error}")
            for case in one.cases:
                case.mark(failed=f"its simulations: {error}")
                failed.add(case.name)
    return failed


def _run(jobs: Sequence[Job], parallel: int, stop: Stop) -> Iterator[Ended]:
    """Run cases; those that train on workers of their own take turns in this process."""
    here = [job for job in jobs if job[0].config.train.workers or parallel == 1]
    yield from several([job for job in jobs if job not in here], parallel, stop)
    yield from one_by_one(here, stop)


@contextmanager
def _workers(study: Study, open_: Sequence[StudyCase], simulates: bool) -> Iterator[int]:
    """Connect to Ray where it is needed, and yield how many cases run at a time."""
    if (len(open_) == 1 or study.parallel == 1) and not simulates:
        yield 1
        return
    with connected(open_[0].config) as ray_cluster:
        threads = max(case.config.train.threads for case in open_)
        yield max(1, min(study.parallel or ray_cluster.capacity(threads, None), len(open_)))


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the folder of a study.

    Arguments:
        folder: of the study.
        wait: until another process has left it.

    Raises:
        LockedError: another process works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        if wait:
            lock(file)
        elif not try_lock(file):
            raise LockedError(f"{folder} is in use by another process; wait for it")
        yield
