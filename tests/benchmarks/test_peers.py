from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.estimators import TASKS, Benchmark
from benchmarks.peers.__main__ import measure
from benchmarks.peers.contests import CONTESTS, Contest, Entry
from benchmarks.peers.environment import WORKERS, work
from benchmarks.peers.exchange import PeerTask, Stopwatch, TimeSpent
from benchmarks.peers.table import table

TINY = Entry("tiny", "sbiflow", "cmpe", {"steps": 20, "arguments": {"width": 8}}, (1, 2))


def job(folder: Path) -> PeerTask:
    rows = np.arange(6.0).reshape(3, 2)
    bounds = np.full(2, -1.0), np.full(2, 7.0)
    return PeerTask(
        folder, "cmpe", {"steps": 2}, 1, (2, None), rows, rows + 1, rows[:1], *bounds, "t"
    )


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job(tmp_path).write()
    read = PeerTask.read(tmp_path)
    assert (read.method, read.arguments, read.seed, read.task) == ("cmpe", {"steps": 2}, 1, "t")
    assert read.passes == (2, None)
    np.testing.assert_array_equal(read.x, np.arange(6.0).reshape(3, 2) + 1)
    np.testing.assert_array_equal(read.low, [-1, -1])


def test_draws_are_counted_in_seconds_per_thousand(tmp_path: Path) -> None:
    def sample(x: np.ndarray, n: int, passes: int | None) -> np.ndarray:
        return np.zeros((len(x), n, 2)) + (passes or 0)

    told = job(tmp_path)
    told.write()
    told.finish(sample, ("numpy",), {"steps": 3})
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 3
    assert report["versions"]["numpy"] == np.__version__
    assert set(report["drawing"]) == {"2", "None"}
    assert all(value >= 0 for value in report["drawing"]["2"].values())
    with np.load(tmp_path / "draws.npz") as draws:
        assert draws["2"].shape == (1, 1000, 2)
        assert (draws["2"] == 2).all()


def test_the_warm_up_is_no_part_of_the_rate() -> None:
    watch = Stopwatch()
    watch.marks = [(0, TimeSpent(0, 0)), (10, TimeSpent(5, 6)), (110, TimeSpent(7, 10))]
    report = watch.report()
    assert report["steps_per_s"] == {"processor": 50, "wall": 25}
    assert report["warm_up"] == {"steps": 10, "processor": 5, "wall": 6}
    assert report["training_s"] == {"processor": 7, "wall": 10}


def test_the_table_has_means_over_the_seeds() -> None:
    cost = {"one_processor_s": 0.5, "together_processor_s": 0.25}
    line = {
        "contest": "c",
        "package": "sbi",
        "entry": "nsf",
        "arguments": {},
        "training_s": {"processor": 20.0},
    }
    lines = [{**line, "drawing": {"None": {**cost, "c2st": c2st}}} for c2st in (0.6, 0.7)]
    (row,) = table(lines).splitlines()[2:]
    assert row == ("| c | sbi | nsf | default | 2 | 0.650 ± 0.050 | 20 ± 0 | 0.2500 | 0.5000 |")


def test_draws_that_are_not_finite_have_no_score() -> None:
    cost = {"one_processor_s": 0.5, "together_processor_s": 0.25, "c2st": None}
    line = {"contest": "c", "package": "p", "entry": "e", "arguments": {}}
    text = table([{**line, "training_s": {"processor": 1.0}, "drawing": {"1": cost}}])
    assert "not finite" in text


def test_every_contest_has_a_task_and_every_entry_a_worker() -> None:
    tasks = {task.name for task in TASKS}
    assert all(contest.task in tasks for contest in CONTESTS)
    assert all(entry.package in WORKERS for c in CONTESTS for entry in c.entries)


@pytest.mark.slow
def test_our_worker_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    (task,) = (task for task in TASKS if task.name == "two_moons")
    bench = Benchmark(task, tmp_path / "references")
    contest = Contest("small", "two_moons", 256, (TINY,))
    report = measure(bench, contest, TINY, 0, Path("unused"), tmp_path / "job")
    assert report["steps"] == 20
    assert set(report["drawing"]) == {"1", "2"}
    assert all(0.5 < cost["c2st"] <= 1 for cost in report["drawing"].values())


def test_a_worker_that_fails_says_where_its_output_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"sbiflow: exit code 1, see .*output\.txt"):
        work("sbiflow", Path("unused"), tmp_path)
    assert "job.json" in (tmp_path / "output.txt").read_text()
