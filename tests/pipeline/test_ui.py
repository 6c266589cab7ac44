"""The MLflow page of a run in a real browser: metrics, parameters, and the report among the files."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from pipeline.results import latest_training
from pipeline.run import RunDirectory
from pipeline.track.stage import sync
from tests.pipeline.conftest import Finished
from tests.real import missing

ROOT = Path(__file__).parents[2]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    "--virtual-time-budget=30000",
)
pytestmark = pytest.mark.timeout(900)
browser = shutil.which("chromium") or shutil.which("chromium-browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(
    _evaluated: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Finished]]:
    """The UI as `sbiflow ui` starts it, and the run that it shows."""
    path = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(_evaluated.run.path, path)
    evaluated, port = Finished(RunDirectory(path), _evaluated.config), free_port()
    command = [sys.executable, "-m", "pipeline", "ui", "-o", str(path)]
    command += ["--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 400
            while not answers(address):
                assert process.poll() is None, "the UI ended"
                assert time.monotonic() < deadline, "the UI does not answer"
                time.sleep(0.5)
            yield address, evaluated
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    deadline = time.monotonic() + 30
    while answers(address):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.5)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def page(address: str) -> str:
    """Return the page as the browser has it once its scripts have run."""
    with tempfile.TemporaryDirectory() as profile:
        command = [str(browser), *QUIET, f"--user-data-dir={profile}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def test_the_page_of_a_run_shows_metrics_parameters_and_the_report(
    served: tuple[str, Finished],
) -> None:
    if browser is None:
        missing("the UI in a browser", "apt-get install chromium")
    address, done = served
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("small")
    where = [experiment.experiment_id]
    (run,) = client.search_runs(where, "tags.`sbiflow.kind` = 'training'")
    (whole,) = client.search_runs(where, "tags.`sbiflow.kind` = 'run'")
    there = f"{address}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"

    overview = page(there)
    assert f"small {latest_training(done.run)}" in overview
    assert "quality/c2st.mean" in overview
    assert f"{run.data.metrics['quality/c2st.mean']:.4f}"[:5] in overview
    assert "estimator.arguments.width" in overview
    assert "train simulations" in overview

    files = page(f"{address}/#/experiments/{where[0]}/runs/{whole.info.run_id}/artifacts")
    assert "report.html" in files
    assert "config.yml" in files
    report = f"{address}/get-artifact?path=report.html&run_uuid={whole.info.run_id}"
    with urllib.request.urlopen(report, timeout=30) as reply:
        assert reply.read() == done.run.report.read_bytes()


def test_sync_into_a_server_gives_what_tracking_live_gives(
    served: tuple[str, Finished],
) -> None:
    address, done = served
    first = sync(done.run, address, "again")
    assert first.created == 3
    assert sync(done.run, address, "again").points == 0
    live, later = MlflowClient(done.run.tracking_uri), MlflowClient(address)
    experiment = live.get_experiment_by_name("small")
    where = "tags.`sbiflow.kind` = 'training'"
    (one,) = live.search_runs([experiment.experiment_id], where)
    other = later.get_run(first.runs[1])
    assert one.data.metrics == other.data.metrics
    assert one.data.params == other.data.params
    assert [f.path for f in live.list_artifacts(one.info.run_id)] == [
        f.path for f in later.list_artifacts(other.info.run_id)
    ]


def latest(text: str, metric: str) -> float:
    """Return the value that a page shows beside a metric's name."""
    found = re.search(rf"{metric}.{{0,2000}}?>(-?\d+\.\d+(?:e-?\d+)?)<", text, flags=re.DOTALL)
    assert found, f"{metric} is not on the page"
    return float(found[1])


def screenshot(address: str, path: Path) -> bytes:
    """Return a picture of the page as the browser shows it."""
    with tempfile.TemporaryDirectory() as profile:
        command = [str(browser), *QUIET, f"--user-data-dir={profile}", "--window-size=1400,900"]
        command += [f"--screenshot={path}", address]
        subprocess.run(command, capture_output=True, timeout=300, check=True)
    return path.read_bytes()


def waited(ready: Any, until: float) -> Any:
    while not (found := ready()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.5)
    return found


def content(uri: str, experiment: str) -> dict[str, Any]:
    """Return all points of all MLflow runs of an experiment, by run and metric."""
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {
        run.data.tags["sbiflow.key"]: {
            name: sorted(
                (p.step, p.value, p.timestamp)
                for p in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        | {"status": run.info.status}
        for run in runs
    }


@pytest.mark.nightly
@pytest.mark.slow
def test_the_page_of_a_training_moves_and_says_when_it_was_killed_and_resumed(
    finished: Finished, tmp_path: Path
) -> None:
    """A moving loss, KILLED after SIGKILL, then RUNNING again as the same run, and equal to a later sync."""
    if browser is None:
        missing("the UI in a browser", "apt-get install chromium")
    run, port, until = finished.run, free_port(), time.monotonic() + 800
    words = ["train", "-o", str(run.path), "train.steps=1000000", "train.validate_every=500"]
    words += ["train.checkpoint_seconds=1"]
    client = MlflowClient(tracking_uri=run.tracking_uri)
    where = "tags.`sbiflow.kind` = 'training' and attributes.status = 'RUNNING'"

    def going() -> Any:
        found = client.search_runs(["1"], where) if run.database.exists() else []
        return found[0].info.run_id if found and "loss/train" in found[0].data.metrics else None

    def status() -> str:
        return str(client.get_run(number).info.status)

    command = [sys.executable, "-m", "pipeline"]
    training = subprocess.Popen([*command, *words], cwd=ROOT)
    server = None
    try:
        number = waited(going, until)
        server = subprocess.Popen([*command, "ui", "-o", run.path, "--port", str(port)], cwd=ROOT)
        address = f"http://127.0.0.1:{port}"
        waited(lambda: answers(address), until)
        there = f"{address}/#/experiments/1/runs/{number}"
        before, first = page(there), screenshot(f"{there}/model-metrics", tmp_path / "1.png")
        time.sleep(6)
        after, second = page(there), screenshot(f"{there}/model-metrics", tmp_path / "2.png")
        assert "Running" in before
        assert latest(before, "loss/train") != latest(after, "loss/train")
        assert first != second
        training.kill()
        training.wait()
        waited(lambda: status() == "KILLED", until)
        assert "Killed" in page(there)
        points = len(client.get_metric_history(number, "loss/train"))

        training = subprocess.Popen([*command, *words], cwd=ROOT)
        waited(lambda: status() == "RUNNING", until)
        assert going() == number
        waited(lambda: len(client.get_metric_history(number, "loss/train")) > points, until)
        training.terminate()
        assert training.wait(120) == 4
        assert status() == "KILLED"
    finally:
        training.kill()
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    sync(run, fresh, "small")
    assert content(fresh, "small") == content(run.tracking_uri, "small")
