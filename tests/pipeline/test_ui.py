"""The MLflow page of a run in a real browser: metrics, parameters, and the report among the files."""

from __future__ import annotations

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

ROOT = Path(__file__).parents[2]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    "--virtual-time-budget=30000",
)
browser = shutil.which("chromium") or shutil.which("chromium-browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(evaluated: Any) -> Iterator[tuple[str, Any]]:
    """The UI as `sbiflow ui` starts it."""
    port = free_port()
    command = [sys.executable, "-m", "pipeline", "ui", "-o", str(evaluated.run.path)]
    command += ["--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 150
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(browser is None, reason="chromium is not installed: the UI is NOT looked at")
def test_the_page_of_a_run_shows_metrics_parameters_and_the_report(served: Any) -> None:
    address, done = served
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("small")
    (run,) = client.search_runs([experiment.experiment_id])
    there = f"{address}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"

    overview = page(there)
    assert f"small {done.run.latest}" in overview
    assert "c2st.mean" in overview
    assert f"{run.data.metrics['c2st.mean']:.4f}"[:5] in overview
    assert "estimator.arguments.width" in overview
    assert "train simulations" in overview

    files = page(f"{there}/artifacts")
    assert "report.html" in files
    assert "config.yml" in files
    report = f"{address}/get-artifact?path=report.html&run_uuid={run.info.run_id}"
    with urllib.request.urlopen(report, timeout=30) as reply:
        assert reply.read() == done.run.report.read_bytes()


@pytest.mark.slow
def test_sync_into_a_server_gives_what_tracking_live_gives(served: Any) -> None:
    from pipeline.track import sync

    address, done = served
    first = sync(done.run, address, "again")
    assert first.created == 1
    assert sync(done.run, address, "again").points == 0
    live, later = MlflowClient(done.run.tracking_uri), MlflowClient(address)
    experiment = live.get_experiment_by_name("small")
    (one,) = live.search_runs([experiment.experiment_id])
    (other,) = (later.get_run(i) for i in first.runs)
    assert one.data.metrics == other.data.metrics
    assert one.data.params == other.data.params
    assert [f.path for f in live.list_artifacts(one.info.run_id)] == [
        f.path for f in later.list_artifacts(other.info.run_id)
    ]
