"""The benchmark of sbibm's tasks: a small cell from simulation to table, and observations of a copy of sbibm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import simulators
from benchmarks.estimators import CONFIGS, settings_of
from benchmarks.frontier import TASKS, main, settings
from benchmarks.observations import of_sbibm

SMALL = ["estimator.name=nsf", "train.steps=20", "train.learning_rate=null"]


def test_every_task_has_a_configuration() -> None:
    assert {path.stem for path in (CONFIGS / "frontier").glob("*.yaml")} == set(TASKS)
    for task in TASKS:
        config = settings(task, [])
        assert (config.name, config.simulator.name) == (task, task)
        assert settings_of(config).rate == 3e-3  # the estimator's own
        assert settings_of(settings(task, SMALL)).steps == 20


def test_a_cell_from_simulation_to_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "frontier.jsonl"
    words = ["--tasks", "gaussian_mixture_uniform", "--budgets", "100", "--seeds", "0"]
    words += ["--passes", "0", "--draws", "60", "--label", "small", "--set", *SMALL]
    monkeypatch.setattr(sys, "argv", ["frontier", *words, "--out", str(out)])
    main()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0]
    found = lines[0]["passes"]["0"]
    assert 0.5 < found["sbibm"] <= 1
    assert 0.5 < found["paper"] <= 1
    assert (
        "| gaussian_mixture_uniform | 100 | small | 10 of the prior | 60 | 0 | 1 |"
        in capsys.readouterr().out
    )
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    main()  # nothing is left to do
    assert len(out.read_text().splitlines()) == 1


def test_fewer_sets_and_one_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--tasks",
        "gaussian_mixture_uniform",
        "--budgets",
        "100",
        "--seeds",
        "0",
        "--sets",
        "2",
    ]
    words += ["--passes", "0", "--draws", "60", "--classifiers", "paper", "--set", *SMALL]
    words += ["--out", str(tmp_path / "f.jsonl")]
    monkeypatch.setattr(sys, "argv", ["frontier", *words])
    main()
    found = json.loads((tmp_path / "f.jsonl").read_text())["passes"]["0"]
    assert 0.5 < found["paper"] <= 1
    assert "sbibm" not in found
    monkeypatch.setattr(sys, "argv", ["frontier", *words, "--sets", "11"])
    with pytest.raises(SystemExit):
        main()
    assert "--sets 11: valid are 2 to 10" in capsys.readouterr().err


def test_observations_of_a_copy_of_sbibm(tmp_path: Path) -> None:
    folder = tmp_path / "sbibm" / "tasks" / "slcp" / "files"
    rng = np.random.default_rng(0)
    simulator = simulators.load("slcp_distractors")
    x = simulator.simulate_block(simulator.prior.sample(rng, 10), rng)["x"]
    for i, row in enumerate(x, 1):
        (folder / f"num_observation_{i}").mkdir(parents=True)
        path = folder / f"num_observation_{i}" / "observation_distractors.csv"
        names = ",".join(f"data_{j}" for j in range(1, 101))
        np.savetxt(path, row[None], delimiter=",", header=names, comments="")
    np.testing.assert_allclose(of_sbibm(tmp_path, "slcp_distractors"), x, rtol=1e-15)
    with pytest.raises(FileNotFoundError, match=r"no copy of sbibm's repository: no .*observation"):
        of_sbibm(tmp_path, "sir")
