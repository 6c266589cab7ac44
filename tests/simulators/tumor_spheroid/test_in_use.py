"""The tumour spheroid as users meet it: bad parameters in a run, and folders that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import simulators

ROOT = Path(simulators.__file__).parents[1]

BAD = """
name: bad
simulator: tumor_spheroid
prior:
  division_rate: {name: uniform, low: -0.05, high: 0.1}
  initial_spheroid_radius: {name: uniform, low: 1, high: 100}
  initial_quiescent_cell_fraction: {name: uniform, low: 0, high: 1.2}
  division_depth: {name: uniform, low: 10, high: 1000}
  ecm_production_rate: {name: uniform, low: 0, high: 1}
  ecm_degradation_rate: {name: uniform, low: 0, high: 1}
  ecm_division_threshold: {name: uniform, low: 0, high: 1}
budget: 24
test: 0
max_failed: 1.0
simulate: {timeout: 20}
track: {live: false}
"""


def sbiflow(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done


def test_bad_parameters_are_rows_that_say_why(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    sbiflow("simulate", "-o", tmp_path / "run", "-c", tmp_path / "bad.yaml")
    rows = json.loads(sbiflow("failures", "-o", tmp_path / "run", "--json").stdout)
    assert 12 < len(rows) < 24
    messages = [row["message"] for row in rows]
    assert all("is not in" in message for message in messages)
    for name in ("division_rate=-0.0", "initial_spheroid_radius=", "quiescent_cell_fraction=1."):
        assert any(name in message for message in messages)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the simulators, with no cache."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "simulators", tmp_path / "simulators", ignore=ignore)
    return tmp_path / "simulators" / "tumor_spheroid"


def last_radius(installed: Path, **environment: str) -> float:
    """The growth curve's last value by a fresh process that uses the copy."""
    code = "import simulators; print(simulators.load('tumor_spheroid')(seed=0)['growth_curve'][-1])"
    caches = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    clean = {name: value for name, value in os.environ.items() if name not in caches}
    folder = installed.parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=clean | {"PYTHONPATH": str(folder)} | environment,
    )
    return float(done.stdout)


@pytest.mark.slow
def test_works_where_nothing_can_be_cached(installed: Path, tmp_path: Path) -> None:
    """An installation that cannot be written, for a user without a home: compiled in every process."""
    home = tmp_path / "home"
    for folder in (installed / "__pycache__", home):
        folder.write_text("a file: nothing can be made below it")
    expected = simulators.load("tumor_spheroid")(seed=0)["growth_curve"][-1]
    assert last_radius(installed, HOME=str(home)) == expected
    assert not list(tmp_path.rglob("*.nbi"))


@pytest.mark.slow
def test_a_change_of_any_file_of_the_kernel_is_compiled(installed: Path) -> None:
    """The cache is beside the package; the constant of another file is in the compiled code."""
    before = last_radius(installed)
    assert list(installed.rglob("*.nbi"))
    constants = installed / "state.py"
    constants.write_text(
        constants.read_text().replace("GROWTH = 16.8 * 0.8", "GROWTH = 16.8 * 0.4")
    )
    assert last_radius(installed) == pytest.approx(before / 2)
