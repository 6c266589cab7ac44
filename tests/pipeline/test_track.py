"""MLflow holds what the journal holds, once, wherever it is brought in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from evaluation.journal import Journal
from pipeline.errors import PipelineError, UsageError
from pipeline.run import Run
from pipeline.track import sync


def content(uri: str, experiment: str = "small") -> dict[str, Any]:
    """Return everything that an MLflow server holds of an experiment, without ids."""
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    result = {}
    for run in client.search_runs([found.experiment_id]):
        run_id = run.info.run_id
        history = {
            name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run_id, name)]
            for name in run.data.metrics
        }
        result[run.info.run_name] = {
            "metrics": {name: sorted(points) for name, points in history.items()},
            "params": dict(run.data.params),
            "tags": {k: v for k, v in run.data.tags.items() if k != "mlflow.user"},
            "status": run.info.status,
            "files": sorted(f.path for f in client.list_artifacts(run_id)),
        }
    return result


def test_a_training_is_one_mlflow_run_with_all_that_belongs_to_it(evaluated: Any) -> None:
    run = evaluated.run
    added = sync(run, run.tracking_uri, "small")
    assert (added.created, len(added.runs)) == (1, 1)
    ((name, held),) = content(run.tracking_uri).items()
    assert name == f"small {run.latest}"
    result = json.loads((run.training(run.latest) / "evaluation" / "metrics.json").read_text())
    ((step, value, _),) = held["metrics"]["c2st.mean"]
    assert (step, value) == (3, result["metrics"]["c2st"]["mean"])
    curves = json.loads((run.training(run.latest) / "curves.json").read_text())
    points = held["metrics"]["train/loss/validation"]
    assert [(s, v) for s, v, _ in points] == [(row["step"], row["validation"]) for row in curves]
    assert [t for *_, t in points] == sorted(t for *_, t in points)
    assert held["params"]["estimator.arguments.width"] == "32"
    assert held["params"]["budget"] == "300"
    assert held["tags"]["sbiflow.store_digest"] == result["posterior"]["digest"]
    assert held["tags"]["sbiflow.budget"] == "300"
    assert held["status"] == "FINISHED"
    assert {"config.yml", "report.html", "journal.jsonl", "plots"} <= set(held["files"])
    assert (run.path / "artefacts").is_dir()
    assert held["metrics"]["simulate/train/ok"][0][1] == result["failed_share"]["train"]["ok"]


def test_a_second_sync_adds_nothing(evaluated: Any) -> None:
    run = evaluated.run
    sync(run, run.tracking_uri, "small")
    before = content(run.tracking_uri)
    again = sync(run, run.tracking_uri, "small")
    assert (again.created, again.points, again.parameters, again.tags, again.artefacts) == (0,) * 5
    assert content(run.tracking_uri) == before


def test_live_and_later_are_the_same(finished: Any, tmp_path: Path) -> None:
    from pipeline.evaluate import evaluate
    from pipeline.stop import Stop

    run = finished.run
    sync(run, run.tracking_uri, "small")  # as after training
    config = finished.configure("evaluate.metrics=[rmse]")
    evaluate(config, run, stop=Stop(), log=finished.log("evaluate"))
    sync(run, run.tracking_uri, "small")  # as after evaluation
    shutil.copytree(run.path, tmp_path / "elsewhere")
    later = f"sqlite:///{tmp_path / 'later.db'}"
    sync(Run(tmp_path / "elsewhere"), later, "small")
    assert content(later) == content(run.tracking_uri)


def test_a_run_killed_half_way_is_completed_later(evaluated: Any) -> None:
    run, key = evaluated.run, evaluated.run.latest
    whole = run.journal.read_bytes()
    aside = run.path.parent / "aside"
    shutil.copytree(run.training(key), aside)
    for name in ("done.json", "curves.json"):
        (run.training(key) / name).unlink()
    for name in ("posterior", "evaluation"):
        shutil.rmtree(run.training(key) / name)
    cut = whole.index(b'"event": "train"') + 200
    run.journal.write_bytes(whole[:cut])  # in the middle of a line
    begun = len(Journal(run.journal).read())
    sync(run, run.tracking_uri, "small")
    (half,) = content(run.tracking_uri).values()
    assert half["status"] == "RUNNING"
    assert "c2st.mean" not in half["metrics"]
    assert begun < len(whole.splitlines())

    run.journal.write_bytes(whole)
    shutil.rmtree(run.training(key))
    shutil.copytree(aside, run.training(key))
    sync(run, run.tracking_uri, "small")
    done = content(run.tracking_uri)
    (last,) = (held for held in done.values() if "c2st.mean" in held["metrics"])
    assert last["status"] == "FINISHED"


def test_simulations_alone_are_a_run(finished: Any) -> None:
    shutil.rmtree(finished.run.path / "trainings")
    events = [e for e in Journal(finished.run.journal).read() if e["stage"] == "simulate"]
    finished.run.journal.unlink()
    for event in events:
        Journal(finished.run.journal).append(event)
    sync(finished.run, finished.run.tracking_uri, "small")
    ((name, held),) = content(finished.run.tracking_uri).items()
    assert name == "small simulations"
    assert held["metrics"]["simulate/train/done"][0][1] == 300


def test_another_training_is_another_mlflow_run(finished: Any) -> None:
    from pipeline.stages import begin
    from pipeline.stop import Stop
    from pipeline.train import train

    run = finished.run
    sync(run, run.tracking_uri, "small")
    config = finished.configure("budget=200", "train.steps=20")
    train(config, run, stop=Stop(), log=begin(config, run, "train"))
    assert sync(run, run.tracking_uri, "small").created == 1
    held = content(run.tracking_uri)
    assert sorted(one["params"]["budget"] for one in held.values()) == ["200", "300"]


def test_long_values_are_cut_to_what_mlflow_takes(finished: Any) -> None:
    text = finished.run.config.read_text()
    finished.run.journal.unlink()
    finished.run.config.write_text(text + f"x{'y' * 300}: {'z' * 7000}\n")
    sync(finished.run, finished.run.tracking_uri, "small")
    (held,) = content(finished.run.tracking_uri).values()
    assert max(map(len, held["params"])) == 250
    assert max(map(len, held["params"].values())) == 6000


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite:///mlflow.db", "/tmp/x"])
def test_addresses_that_depend_on_the_folder_are_refused(finished: Any, uri: str) -> None:
    with pytest.raises(UsageError, match=r"sqlite:////absolute/path\.db"):
        sync(finished.run, uri, "small")


def test_a_server_that_is_not_there(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PipelineError, match=r"MLflow at http://127\.0\.0\.1:9"):
        sync(finished.run, "http://127.0.0.1:9", "small")


def test_mlflow_is_imported_by_nobody_else() -> None:
    code = "import sys, pipeline.track, pipeline.evaluate, pipeline.report; assert 'mlflow' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
