"""MLflow holds what the journal holds, once, wherever it is brought in."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from benchmarks.chaos_simulate import descendants, name_of
from evaluation.journal import Journal
from evaluation.tracking import local, publisher
from evaluation.tracking.local import LocalDatabase
from pipeline import config as configuration
from pipeline import stages
from pipeline.errors import PipelineError, Stopped, UsageError
from pipeline.events import read
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory
from pipeline.stop import stop_on_signals
from pipeline.track.history import History
from pipeline.track.live import POLL, Follower
from pipeline.track.stage import Tracker, sync
from pipeline.track.ui import ui

IDS = "mlflow.user", "mlflow.parentRunId"  # another on every server
PARTS = 3  # MLflow runs of a run with one training: the run, the training, its evaluation


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
            "tags": {k: v for k, v in run.data.tags.items() if k not in IDS},
            "status": run.info.status,
            "parent": run.data.tags.get("mlflow.parentRunId") is not None,
            "files": sorted(f.path for f in client.list_artifacts(run_id)),
        }
    return result


def test_a_training_is_one_mlflow_run_with_all_that_belongs_to_it(evaluated: Any) -> None:
    run = evaluated.run
    added = sync(run, run.tracking_uri, "small")
    assert (added.created, len(added.runs)) == (PARTS, PARTS)
    key, everything = latest_training(run), content(run.tracking_uri)
    assert set(everything) == {"small", f"small {key}", f"small {key} evaluation"}
    held, whole = everything[f"small {key}"], everything["small"]
    assert [one["parent"] for one in (whole, held)] == [False, True]
    assert everything[f"small {key} evaluation"]["parent"]
    result = json.loads(
        (run.training(latest_training(run)) / "evaluation" / "metrics.json").read_text()
    )
    ((step, value, _),) = held["metrics"]["quality/c2st.mean"]
    assert (step, value) == (3, result["metrics"]["c2st"]["mean"])
    curves = json.loads((run.training(latest_training(run)) / "curves.json").read_text())["curves"]
    points = held["metrics"]["loss/validation"]
    assert [(s, v) for s, v, _ in points] == [(row["step"], row["validation"]) for row in curves]
    assert [t for *_, t in points] == sorted(t for *_, t in points)
    assert held["params"]["estimator.arguments.width"] == "32"
    assert held["params"]["budget"] == "300"
    assert held["tags"]["sbiflow.store_digest"] == result["posterior"]["digest"]
    assert held["tags"]["sbiflow.budget"] == "300"
    assert held["status"] == "FINISHED"
    assert {"config.yml", "plots", "posterior", "evaluation"} <= set(held["files"])
    wanted = {"report.html", "journal.jsonl", "failures.csv", "config.yml"}
    assert wanted <= set(whole["files"])
    assert whole["params"]["simulator.name"].endswith("gaussian.py:gaussian")
    assert held["params"]["prior.a"] == "normal(mean=0, std=1)"
    assert not [name for name in held["params"] if name.startswith("cluster")]
    assert {"quality/ece.max", "loss/train", "rate/learning_rate"} <= set(held["metrics"])
    assert (run.path / "artefacts").is_dir()
    assert whole["metrics"]["simulate/train/ok"][0][1] == result["failed_share"]["train"]["ok"]


def test_a_second_sync_adds_nothing(evaluated: Any) -> None:
    run = evaluated.run
    sync(run, run.tracking_uri, "small")
    before = content(run.tracking_uri)
    again = sync(run, run.tracking_uri, "small")
    assert (again.created, again.points, again.parameters, again.tags, again.artefacts) == (0,) * 5
    assert content(run.tracking_uri) == before


def test_live_and_later_are_the_same(finished: Any, tmp_path: Path) -> None:
    from pipeline.evaluate.stage import evaluate
    from pipeline.stop import Stop

    run = finished.run
    sync(run, run.tracking_uri, "small")  # as after training
    config = finished.configure("evaluate.metrics=[rmse]")
    evaluate(config, run, stop=Stop(), record=finished.log("evaluate"))
    sync(run, run.tracking_uri, "small")  # as after evaluation
    shutil.copytree(run.path, tmp_path / "elsewhere")
    later = f"sqlite:///{tmp_path / 'later.db'}"
    sync(RunDirectory(tmp_path / "elsewhere"), later, "small")
    assert content(later) == content(run.tracking_uri)


def test_a_run_killed_half_way_is_completed_later(evaluated: Any) -> None:
    run, key = evaluated.run, latest_training(evaluated.run)
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
    half = content(run.tracking_uri)[f"small {key}"]
    assert (half["status"], half["tags"]["sbiflow.reason"]) == ("KILLED", "its process is gone")
    assert "quality/c2st.mean" not in half["metrics"]
    assert begun < len(whole.splitlines())

    run.journal.write_bytes(whole)
    shutil.rmtree(run.training(key))
    shutil.copytree(aside, run.training(key))
    sync(run, run.tracking_uri, "small")
    done = content(run.tracking_uri)
    assert {held["status"] for held in done.values()} == {"FINISHED"}
    assert "quality/c2st.mean" in done[f"small {key}"]["metrics"]


def test_simulations_alone_are_a_run(finished: Any) -> None:
    shutil.rmtree(finished.run.path / "trainings")
    events = [e for e in Journal(finished.run.journal).read() if e["stage"] == "simulate"]
    finished.run.journal.unlink()
    for event in events:
        Journal(finished.run.journal).append(event)
    sync(finished.run, finished.run.tracking_uri, "small")
    ((name, held),) = content(finished.run.tracking_uri).items()
    assert name == "small"
    assert held["metrics"]["simulate/train/done"][0][1] == 300


def test_another_training_is_another_mlflow_run(finished: Any) -> None:
    from pipeline.stages import begin
    from pipeline.stop import Stop
    from pipeline.train.stage import train

    run = finished.run
    sync(run, run.tracking_uri, "small")
    config = finished.configure("budget=200", "train.steps=20")
    train(config, run, stop=Stop(), record=begin(config, run, "train"))
    assert sync(run, run.tracking_uri, "small").created == 1
    held = [one["params"].get("budget") for one in content(run.tracking_uri).values()]
    assert sorted(budget for budget in held if budget) == ["200", "300"]


def test_long_values_are_cut_to_what_mlflow_takes(finished: Any) -> None:
    run, key = finished.run, latest_training(finished.run)
    values = finished.config.plain()
    values["simulator"]["arguments"][f"x{'y' * 300}"] = "z" * 7000
    Results(run, key).write_config(values)
    sync(finished.run, finished.run.tracking_uri, "small")
    held = content(finished.run.tracking_uri)[f"small {key}"]
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
    stages = "pipeline.track.stage, pipeline.evaluate.stage, pipeline.report.stage"
    code = f"import sys, {stages}; assert 'mlflow' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


# --- the run's own database ----------------------------------------------------------------------


def change(run: RunDirectory, statement: str) -> None:
    with closing(sqlite3.connect(run.database)) as connection:
        assert connection.execute(statement).rowcount > 0
        connection.commit()


DAMAGES = {
    "truncated": lambda run: os.truncate(run.database, run.database.stat().st_size // 2),
    "empty": lambda run: os.truncate(run.database, 0),
    "garbage": lambda run: run.database.write_bytes(b"garbage" * 1000),
    "half created": lambda run: change(run, "DELETE FROM alembic_version"),
    "a folder": lambda run: (run.database.unlink(), run.database.mkdir()),
    "a changed parameter": lambda run: change(
        run, "UPDATE params SET value = '301' WHERE key = 'budget'"
    ),
    "a changed metric": lambda run: change(
        run, "UPDATE metrics SET value = 0.4321 WHERE key = 'quality/c2st.mean'"
    ),
    "a changed last metric": lambda run: change(
        run, "UPDATE latest_metrics SET value = 0.4321 WHERE key = 'quality/c2st.mean'"
    ),
    "another run": lambda run: change(run, "UPDATE tags SET value = 'x' WHERE key = 'sbiflow.key'"),
}


@pytest.fixture(scope="module")
def tracked(_evaluated: Any, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return a run that MLflow knows; a test leaves it as it was."""
    path = tmp_path_factory.mktemp("tracked") / "run"
    shutil.copytree(_evaluated.run.path, path)
    run = RunDirectory(path)
    sync(run, run.tracking_uri, "small")
    return run


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_database_that_is_damaged_or_says_something_else_is_not_believed(
    tracked: RunDirectory, tmp_path: Path, kind: str
) -> None:
    history = History(tracked, tmp_path)
    records, artefacts = list(history.records()), tracked.path / "artefacts"

    def reason() -> str:
        found = LocalDatabase(tracked.database, "small", artefacts, print)
        return found.unsound(records, history.known)

    sound = tracked.database.read_bytes()
    assert reason() == ""
    try:
        DAMAGES[kind](tracked)
        assert reason()
    finally:
        if tracked.database.is_dir():
            tracked.database.rmdir()
        tracked.database.write_bytes(sound)


def test_what_is_said_of_a_training_does_not_change_when_its_weights_are_damaged(
    evaluated: Any,
) -> None:
    run = evaluated.run

    def said() -> list[Any]:
        tags = ("sbiflow.verdict", "mlflow.note.content")
        records = History(run, run.path).records()
        return [([one.tags.get(tag) for tag in tags], one.data) for one in records]

    before = said()
    weights = Results(run, latest_training(run)).folder / "posterior" / "weights.pt"
    weights.write_bytes(b"")
    assert said() == before


def test_a_damaged_database_is_set_aside_and_built_anew(
    tracked: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged = content(tracked.tracking_uri), b"SQLite format 3" + bytes(5000)
    tracked.database.write_bytes(damaged)
    sync(tracked, tracked.tracking_uri, "small")
    aside = tracked.path / "mlflow.db.damaged-1"
    assert aside.read_bytes() == damaged
    assert "mlflow.db is built again: " in capsys.readouterr().err
    assert content(tracked.tracking_uri) == whole
    again = sync(tracked, tracked.tracking_uri, "small")
    assert (again.created, again.points, again.artefacts) == (0, 0, 0)
    assert capsys.readouterr().err == ""
    assert not list(tracked.path.glob(".mlflow*"))


def test_a_file_that_is_missing_or_changed_among_the_artefacts_is_uploaded_again(
    tracked: RunDirectory,
) -> None:
    _, run_id, _ = sync(tracked, tracked.tracking_uri, "small").runs
    (kept,) = (tracked.path / "artefacts").rglob(f"{run_id}/**/metrics.json")
    sound = kept.read_bytes()
    kept.write_bytes(sound.replace(b"0", b"1"))
    assert sync(tracked, tracked.tracking_uri, "small").artefacts == 1
    assert kept.read_bytes() == sound
    kept.unlink()
    assert sync(tracked, tracked.tracking_uri, "small").artefacts == 1
    assert kept.read_bytes() == sound


def test_a_build_that_is_interrupted_leaves_no_database_and_a_repeat_completes_it(
    evaluated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    run = evaluated.run
    with monkeypatch.context() as patch, stop_on_signals() as stop:
        patch.setattr(publisher, "_lineage", killed)
        with pytest.raises(Stopped, match="SIGTERM"):
            stages.publish(evaluated.config, run, stop)
    assert not list(run.path.glob("*mlflow.db*"))
    with stop_on_signals() as stop:
        stages.publish(evaluated.config, run, stop)
    assert {held["status"] for held in content(run.tracking_uri).values()} == {"FINISHED"}


def test_a_full_disk_is_said_and_spoils_nothing(
    tracked: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tracked.database.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local, "unknown_values", full)
    with pytest.raises(PipelineError, match="No space left"):
        sync(tracked, tracked.tracking_uri, "small")
    assert tracked.database.read_bytes() == whole
    assert "built again" not in capsys.readouterr().err


# --- while a command works -----------------------------------------------------------------------


def command(*words: Any) -> list[str]:
    return [sys.executable, "-m", "pipeline", *map(str, words)]


def of(run: RunDirectory, kind: str) -> Any:
    """Return the only MLflow run of a kind, None while there is none."""
    if not run.database.exists():
        return None
    client = MlflowClient(tracking_uri=run.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    where = f"tags.`sbiflow.kind` = '{kind}'"
    found = client.search_runs([experiment.experiment_id], where) if experiment else []
    assert len(found) < 2
    return found[0] if found else None


def waited(ready: Any, seconds: float = 120.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.3)
    return found


@pytest.mark.timeout(400)
def test_a_training_is_live_then_killed_then_goes_on_as_the_same_run(finished: Any) -> None:
    run = finished.run
    shutil.rmtree(run.path / "trainings")
    (run.path / "latest.json").unlink()
    events = [e for e in Journal(run.journal).read() if e["stage"] == "simulate"]
    run.journal.unlink()
    for event in events:
        Journal(run.journal).append(event)
    root = Path(__file__).parents[2]
    words = ["train.steps=10000000", "train.checkpoint_seconds=1", "train.validate_every=5000"]
    with subprocess.Popen(command("train", "-o", run.path, *words), cwd=root) as process:
        try:
            live = waited(lambda: (r := of(run, "training")) and r.data.metrics.get("loss/train"))
            assert np.isfinite(live)
            going = of(run, "training")
            assert going.info.status == "RUNNING"
            client = MlflowClient(tracking_uri=run.tracking_uri)

            def points() -> int:
                return len(client.get_metric_history(going.info.run_id, "loss/train"))

            before = points()
            waited(lambda: points() > before)
            assert of(run, "run").info.status == "RUNNING"
        finally:
            process.kill()
    waited(lambda: of(run, "training").info.status == "KILLED")
    assert of(run, "training").data.tags["sbiflow.reason"] == "its process is gone"
    assert of(run, "run").info.status == "KILLED"

    again = subprocess.Popen(command("train", "-o", run.path), cwd=root)
    waited(lambda: of(run, "training").info.status == "RUNNING")
    again.terminate()
    assert again.wait(120) == 4
    ended = of(run, "training")
    assert ended.info.run_id == going.info.run_id
    assert ended.info.status == "KILLED"
    assert "SIGTERM" in ended.data.tags["sbiflow.reason"]

    history = client.get_metric_history(going.info.run_id, "loss/train")
    assert len(history) > before  # those of both processes, in one run
    later = f"sqlite:///{run.path.parent / 'later.db'}"
    sync(run, later, "small")
    assert content(later) == content(run.tracking_uri)


@pytest.mark.slow
def test_a_server_that_is_gone_costs_one_warning_and_no_work(finished: Any) -> None:
    root, run = Path(__file__).parents[2], finished.run
    words = ["evaluate.metrics=[rmse]", "track.uri=http://127.0.0.1:9"]
    words = command("evaluate", "-o", run.path, *words)
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("MLflow at http://127.0.0.1:9") == 1
    assert f"sbiflow track sync -o {run.path}" in done.stderr
    sync(run, run.tracking_uri, "small")
    assert of(run, "evaluation").info.status == "FINISHED"


def test_a_command_that_finds_nothing_to_do_starts_no_process(finished: Any) -> None:
    run = finished.run

    def followers() -> list[int]:
        return [p for p in descendants(os.getpid()) if f"follow -o {run.path}" in words(p)]

    def words(pid: int) -> str:
        return name_of(pid).replace("\0", " ")

    follower = Follower(run, finished.configure("track.live=true"))
    time.sleep(3 * POLL)
    assert not followers()
    stages.begin(finished.config, run, "evaluate")({"event": "start"})
    waited(followers)
    follower.end(False, 60.0)
    assert not followers()


def test_a_failure_is_told_with_its_reason(finished: Any) -> None:
    run = finished.run
    record = stages.begin(finished.config, run, "evaluate")
    with pytest.raises(PipelineError, match="no such thing"):
        break_off(finished, record)
    sync(run, run.tracking_uri, "small")
    failed = of(run, "evaluation")
    assert (failed.info.status, failed.data.tags["sbiflow.reason"]) == ("FAILED", "no such thing")
    assert of(run, "training").info.status == "FINISHED"
    assert of(run, "run").info.status == "FAILED"


def break_off(finished: Any, record: Any) -> None:
    with stages.tracked(finished.configure("track.live=false"), finished.run):
        record({"event": "start", "training": latest_training(finished.run)})
        raise PipelineError("no such thing")


# --- the model -----------------------------------------------------------------------------------

LOAD = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pipeline", "simulators", "evaluation", "ray", "zarr", "zuko", "numba"):
            raise ImportError(name)
sys.meta_path.insert(0, Only())
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
x = np.array([[0.4, -1.0], [0.0, 2.0]], np.float32)
draws = model.predict({"x": x}, params={"draws": 7, "seed": 5, "sampling_steps": 3})
np.save(sys.argv[3], draws)
import estimators
print(estimators.__file__)
"""


def test_the_model_loads_with_torch_and_mlflow_alone_and_draws_the_same(
    evaluated: Any, tmp_path: Path
) -> None:
    run, key = evaluated.run, latest_training(evaluated.run)
    config = evaluated.configure("track.register=gauss", "track.best=c2st.mean")
    configuration.save(config, run)
    sync(run, run.tracking_uri, "small")
    client = MlflowClient(tracking_uri=run.tracking_uri)
    (model,) = client.search_logged_models(["1"])
    assert model.source_run_id == of(run, "training").info.run_id
    measured = {metric.key: metric.dataset_name for metric in model.metrics}
    assert measured["quality/c2st.mean"] == "test simulations"
    best = client.get_model_version_by_alias("gauss", "best")
    assert best.tags["sbiflow.model"] == model.model_id

    out = tmp_path / "draws.npy"
    place = [sys.executable, "-c", LOAD, run.tracking_uri, "models:/gauss@best", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        place, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(run.path / "artefacts") in done.stdout  # the copy beside the weights
    x = {"x": np.array([[0.4, -1.0], [0.0, 2.0]])}
    ours = Results(run, key).load().sample(x, 7, seed=5, sampling_steps=3)
    np.testing.assert_array_equal(np.load(out), ours.numpy())
    assert not list((run.path / "artefacts").rglob("*.pkl"))
    sync(run, run.tracking_uri, "small")
    assert len(client.search_logged_models(["1"])) == 1
    assert len(client.search_model_versions("name = 'gauss'")) == 1


def test_several_runs_are_together_in_one_experiment(evaluated: Any, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'together.db'}"
    shutil.copytree(evaluated.run.path, tmp_path / "other")
    other = RunDirectory(tmp_path / "other")
    first = json.loads(other.journal.read_text().splitlines()[0])
    other.journal.unlink()  # another history is another run
    events = read(evaluated.run).events
    for event in events:
        Journal(other.journal).append({**event, "note": first["time"]})
    for run in (evaluated.run, other):
        Tracker(run, uri, "runs").write(whole=False)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("runs")
    assert len(client.search_runs([experiment.experiment_id])) == 2 * PARTS
    state = json.loads(experiment.tags["mlflow.sharedViewState.sbiflow"])
    assert "metrics.`quality/ece.max`" in state["selectedColumns"]
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_port_that_is_in_use_is_refused(finished: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="take another one"):
            ui([finished.run], taken.getsockname()[1])
