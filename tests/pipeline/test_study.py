"""A study: what it trains, what it shares, what it refuses, and what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from evaluation.journal import Journal
from pipeline.cli import study as command
from pipeline.config import load, read
from pipeline.errors import PipelineError, UsageError
from pipeline.files import read_document
from pipeline.run import RunDirectory
from pipeline.show import status_values
from pipeline.stop import Stop
from pipeline.store import Store
from pipeline.study import schema
from pipeline.study.case import cases
from pipeline.study.forecast import forecast
from pipeline.study.naming import label
from pipeline.study.results import curves_of
from pipeline.study.simulations import simulations
from pipeline.study.stage import share, study

BASE = {
    "name": "small",
    "simulator": {"name": "gaussian_linear", "arguments": {"dim": 2}},
    "budget": 64,
    "test": 20,
    "train": {"steps": 30, "batch_size": 16, "validate_every": 10, "validation": 0.1},
    "evaluate": {"draws": 40, "metrics": ["nrmse", "sbc", "seconds"], "sampling_steps": [1, 2]},
}
SMALL = {"width": 16, "depth": 1}
AXES = {
    "estimator": [
        {"name": "cmpe", "arguments": SMALL},
        {"name": "fmpe", "arguments": SMALL},
        {"name": "acf", "arguments": {"transforms": 1, "hidden": [16]}},
    ],
    "budget": [64, 96, 128],
    "seed": [0, 1],
}
TIMES = ("seconds", "evaluation_seconds")  # differ between equal studies


def small(**changes: Any) -> schema.Study:
    return schema.build({"name": "small", "base": BASE, "axes": AXES, "parallel": 1} | changes, "S")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The study of three estimators, three budgets and two seeds, undisturbed and without Ray."""
    folder = tmp_path_factory.mktemp("study")
    return folder, share(small(), folder, Stop())


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """Return what equal studies have in common: the weights of each case, and its metrics without times."""
    return {
        case["name"]: (
            case["weights"],
            [
                {k: v for k, v in one["metrics"].items() if not k.startswith("seconds")}
                for one in case["measured"]
            ],
        )
        for case in result["cases"]
    }


def trainings(folder: Path) -> int:
    """Return how many trainings have begun in the cases of a study."""
    journals = folder.glob("cases/*/journal.jsonl")
    events = [event for path in journals for event in Journal(path).content().events]
    return sum(event["stage"] == "train" and event["event"] == "start" for event in events)


# --- what it does --------------------------------------------------------------------------------


def test_every_combination_is_trained_on_shared_simulations(done: tuple[Path, Any]) -> None:
    folder, result = done
    assert [case["state"] for case in result["cases"]] == ["complete"] * 18
    assert sorted(path.name for path in (folder / "cases").iterdir()) == sorted(
        case["name"] for case in result["cases"]
    )
    assert {len(one["axes"]) for one in result["table"]} == {2}
    assert {one["seeds"] for one in result["table"]} == {2}
    stores = [Store.open(path) for path in folder.glob("simulations/*/store/train")]
    assert [store.counts()["done"] for store in stores] == [128, 128]
    by_budget = {}
    for case in result["cases"]:
        by_budget.setdefault((case["budget"], case["seed"]), set()).add(case["store_digest"])
    assert all(len(digests) == 1 for digests in by_budget.values())
    assert len(by_budget) == len({d for digests in by_budget.values() for d in digests}) == 6


def test_a_case_is_an_ordinary_run(done: tuple[Path, Any]) -> None:
    folder, result = done
    run = RunDirectory(folder / "cases" / result["cases"][0]["name"])
    values = status_values(load(run), run)
    assert (values["done"], values["budget"], values["missing"]) == (64, 64, 0)
    assert values["digest"] == result["cases"][0]["store_digest"]
    (curve,) = [one for one in curves_of(run) if one["metric"] == "validation_loss"]
    assert curve["axes"] == {"estimator": result["cases"][0]["axes"]["estimator"]}
    assert curve["next"]["budget"] == 256
    assert curves_of(RunDirectory(folder)) == []


def test_a_repeat_trains_nothing_and_another_value_only_its_cases(
    done: tuple[Path, Any],
) -> None:
    folder, result = done
    before = trainings(folder)
    assert numbers(study(small(), folder, Stop())) == numbers(result)
    assert trainings(folder) == before == 18
    grown = share(small(axes=AXES | {"seed": [0, 1, 2]}), folder, Stop())
    assert trainings(folder) == before + 9
    assert len(grown["cases"]) == 27
    assert numbers(result).items() <= numbers(grown).items()
    assert len(list(folder.glob("simulations/*"))) == 3


def test_the_page_and_mlflow_show_the_study(done: tuple[Path, Any]) -> None:
    from mlflow.tracking import MlflowClient

    folder, result = done
    page = (folder / "study.html").read_text()
    for words in ("Against the budget", "Calibration", "Would more simulations help?", "cmpe"):
        assert words in page
    client = MlflowClient(tracking_uri=RunDirectory(folder).tracking_uri)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if run.info.run_id != parent.info.run_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    assert {run.info.run_name for run in nested} >= {case["name"] for case in result["cases"]}
    assert {run.data.params["axis.budget"] for run in nested} == {"64", "96", "128"}
    assert all("quality/nrmse.mean" in run.data.metrics for run in nested)


def test_a_failed_case_is_listed_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = BASE | {"evaluate": BASE["evaluate"] | {"metrics": ["nrmse"]}}  # type: ignore[operator]
    source, folder = tmp_path / "s.yaml", tmp_path / "out"
    source.write_text(json.dumps({"base": base, "axes": {"train.batch_size": [1000, 16]}}))
    with pytest.raises(PipelineError, match="1 cases failed: batch_size=1000"):
        command.study(folder, source, ["train.steps=5"], 1, True, False, False, False)
    failed, complete = read_document(folder / "study.json")["cases"]
    assert complete["state"] == "complete"
    assert failed["state"] == "failed"
    assert "train.batch_size=1000 is more than" in failed["reason"]
    assert "train.batch_size=1000" in (folder / "study.html").read_text()
    assert "failed: batch_size=1000" in capsys.readouterr().out
    command.study(folder, None, None, None, False, True, False, False)
    assert "2 cases: 1 complete, 1 failed, 0 missing" in capsys.readouterr().out


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    values = forecast(small(axes=AXES | {"estimator": ["fmpe"]}), tmp_path / "new")
    assert (values["cases"], values["trainings"], values["steps"]) == (6, 6, 180)
    assert values["simulations"] == 2 * (128 + 20)
    assert values["training_core_hours"] > 0
    assert not (tmp_path / "new").exists()


def test_the_simulations_of_a_run_are_used_and_added_to(
    done: tuple[Path, Any], tmp_path: Path
) -> None:
    (run,) = done[0].glob("simulations/gaussian_linear-seed-0-*")
    axes = {"budget": [64, 140]}
    plan = small(axes=axes, simulations=str(run), base=BASE | {"estimator": AXES["estimator"][2]})
    result = share(plan, tmp_path, Stop())
    assert Store.open(run / "store/train").counts()["done"] == 140
    digests = {
        case["budget"]: case["store_digest"] for case in done[1]["cases"] if not case["seed"]
    }
    assert result["cases"][0]["store_digest"] == digests[64]
    with pytest.raises(UsageError, match="differ from those of all cases"):
        study(small(axes={"seed": [5]}, simulations=str(run)), tmp_path / "other", Stop())


# --- names and refusals --------------------------------------------------------------------------


def test_names_follow_from_values_alone() -> None:
    assert label({"name": "cmpe", "arguments": {"width": 64}}) == "cmpe+width-64"
    assert label("my/file.py:thing") == "thing"
    assert label(1e-3) == "0.001"
    assert label(0.0012520653814999472) == "0.0012521"
    assert len(label({"arguments": {f"a{k}": k for k in range(50)}})) <= 48
    (one,) = cases(small(axes={"budget": [64]}, cases={"wide": {"seed": 3}}), Path("x"))
    assert one.name == "wide,budget=64"
    assert one.config.seed == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": {"bugdet": [1]}}, "did you mean 'budget'"),
        ({"axes": {"train.step": [1]}}, "did you mean 'steps'"),
        ({"axes": {"budget": ["many"]}}, "case budget=many: .*valid integer"),
        ({"axes": {"budget": 64}}, "axis 'budget' = 64: valid are a list"),
        ({"axes": {"budget": []}}, r"axis 'budget' = \[\]"),
        ({"axes": {}}, "nothing varies"),
        ({"axes": {"budget": [64, 64]}}, "two values have the name '64'"),
        ({"axes": {"budget": {"a": 64, "b": 64}}}, "budget=a and budget=b have equal settings"),
        ({"axes": {"budget": [64]}, "cases": [{"budget": 80}]}, "is an axis and in cases"),
        ({"axes": {"budget": [64]}, "cases": ["fast"]}, "'fast': a mapping of keys"),
        (
            {"axes": {"train": [{"steps": 9}], "train.steps": [4]}},
            "'train.steps' lies within 'train'",
        ),
        ({"axes": {"seed": [1.5]}}, "case seed=1.5: .*valid integer"),
        ({"axes": {"train": [5]}}, "case train=5: .*'train' = 5"),
        ({"axes": {"name": ["a", "b"]}}, "name=a and name=b have equal settings"),
        ({"axes": {"train.learning_rate": [1e-3, 0.001]}}, "two values have the name '0.001'"),
        ({"paralel": 2}, "did you mean 'parallel'"),
    ],
)
def test_what_cannot_be_a_study_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cases(small(**changes), Path("x"))


def test_a_refused_study_leaves_no_folder_and_the_command_says_why(tmp_path: Path) -> None:
    source, folder = tmp_path / "study.yaml", tmp_path / "out"
    refused = (
        ({"train.stepz": [3]}, [], "did you mean 'steps'"),
        ({"estimator": ["cpme"]}, ["--share"], "case estimator=cpme: .*did you mean 'cmpe'"),
    )
    for axes, extra, words in refused:
        source.write_text(json.dumps({"base": BASE, "axes": axes}))
        command = [sys.executable, "-m", "pipeline", "study", str(source), "-o", str(folder)]
        found = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
        assert found.returncode == 2, found.stderr
        assert re.search(words, found.stderr), found.stderr
        assert not folder.exists()


def test_a_changed_study_is_refused_with_the_difference(done: tuple[Path, Any]) -> None:
    folder, _ = done
    changed = small(base=BASE | {"train": BASE["train"] | {"steps": 31}})  # type: ignore[operator]
    with pytest.raises(
        UsageError, match=r"(?s)made with another.*train.steps: 30 -> 31.*on purpose"
    ):
        study(changed, folder, Stop())
    with pytest.raises(UsageError, match="budget varies in this study"):
        schema.build(small().plain(), "S", ["budget=3"])


def test_values_that_identify_simulations_have_their_own_stores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.study.stage import prepare

    prepare(small(axes={"design": ["random", "sobol"], "budget": [64, 96]}), tmp_path)
    assert "2 stores of simulations, since these differ: design='random'; design='sobol'" in (
        capsys.readouterr().err
    )
    one, other = simulations(cases(small(axes={"seed": [0, 7]}), tmp_path), tmp_path)
    assert (one.differs, other.differs) == ({"seed": 0}, {"seed": 7})


# --- search --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_goes_on_to_a_total_and_is_measured_with_fresh_seeds(tmp_path: Path) -> None:
    space = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "estimator.arguments.width": [8, 16],
    }
    base = BASE | {"estimator": {"name": "fmpe", "arguments": {"depth": 1}}}

    def plan(trials: int, **changes: Any) -> schema.Study:
        asked = {"space": space, "metric": "nrmse.mean", "trials": trials, "seeds": 2} | changes
        values = {"name": "searched", "base": base, "search": asked, "parallel": 2}
        return schema.build(values, "S")

    first = study(plan(2), tmp_path, Stop())
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/case.json")}
    assert len(begun) == 2
    second = study(plan(4), tmp_path, Stop())
    trials = second["search"]["trials"]
    assert len(trials) == 4
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    assert second["search"]["value"] == min(t["value"] for t in trials if t["value"] is not None)
    assert second["search"]["value"] <= first["search"]["value"]
    assert [case["seed"] for case in second["cases"]] == [1000, 1001]
    best = read(tmp_path / "best.yaml")
    assert best["train"]["learning_rate"] == second["search"]["best"]["train.learning_rate"]
    with pytest.raises(UsageError, match=r"search\.metric: 'nrmse.mean' -> 'validation_loss'"):
        study(plan(4, metric="validation_loss"), tmp_path, Stop())


def test_a_search_needs_a_space_of_keys(tmp_path: Path) -> None:
    from pipeline.study.search import SearchRun

    for space, words in (
        ({"train.stepz": [1]}, "did you mean 'steps'"),
        ({"train.steps": 5}, "valid are a list"),
        ({"seed": [1, 2]}, "'seed' changes the simulations"),
        ({"train.steps": {"low": 5, "hihg": 6}}, "valid are a list"),
        ({"train.steps": {"low": 9, "high": 6}}, "train.steps"),
    ):
        with pytest.raises(UsageError, match=words):
            SearchRun(small(axes={}, search={"space": space}), tmp_path)


# --- kills ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_work(folder: Path, reached: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the study as a command with two cases at a time, until so much is done."""
    source = folder.parent / "study.yaml"
    source.write_text(json.dumps(small(parallel=2).plain()))
    words = ["study", str(source), "-o", str(folder)]
    nowhere = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    command = [sys.executable, "-m", "pipeline", *words]
    with subprocess.Popen(command, start_new_session=True, **nowhere) as process:
        deadline = time.monotonic() + 200
        while not reached():
            assert process.poll() is None, "it ended before it could be disturbed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill the driver with Ray and all workers."""
    children = psutil.Process(process.pid).children(recursive=True)
    for number in [process.pid, *(child.pid for child in children)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def complete(folder: Path) -> int:
    return len(list(folder.glob("cases/*/case.json")))


@pytest.mark.slow
def test_killed_twice_and_stopped_once_it_gives_the_same_numbers(
    tmp_path: Path, done: tuple[Path, Any]
) -> None:
    folder = tmp_path / "killed"
    with at_work(folder, lambda: complete(folder) >= 2) as process:
        kill_all(process)
    with at_work(folder, lambda: complete(folder) >= 6) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 4
    with at_work(folder, lambda: complete(folder) >= 11) as process:
        kill_all(process)
    assert complete(folder) < 18
    result = study(small(), folder, Stop())
    assert numbers(result) == numbers(done[1])
    for path in folder.glob("simulations/*/journal.jsonl"):
        events = [e for e in Journal(path).content().events if e.get("event") == "simulated"]
        assert [(e["stream"], e["simulated"]) for e in events] == [("train", 128), ("test", 20)]
