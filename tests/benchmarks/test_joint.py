"""The benchmark of the joint estimator: a small training from simulations to its line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import joint

SMALL = ["width=8", "depth=1", "heads=2", "frequencies=2", "points=4"]
TRAIN = ["train.steps=10", "train.batch_size=16"]


def ask(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> None:
    changes = [*TRAIN, *(f"estimator.arguments.{setting}" for setting in SMALL)]
    line = ["joint", "--budget", "100", "--draws", "20", "--passes", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*line, *words, "--set", *changes])
    joint.main()


def test_a_line_has_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "SETS", 3)
    monkeypatch.setattr(joint, "DRAWS", 20)
    monkeypatch.setattr(joint, "DENOISER_PASSES", 2)
    out = tmp_path / "joint.jsonl"
    ask(monkeypatch, out, "--questions", "absent", "log_likelihood")
    (line,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert line["budget"] == 100
    assert set(line["absent"]) == {"1", "denoiser, 2"}
    for found in line["absent"].values():
        assert 0 < found["rmse_of_means"] < 3
        assert 0 < found["std_ratio"] < 10
    assert line["log_likelihood"]["exact"] == pytest.approx(-2.7, abs=4)  # -D / 2 log(2 pi e s^2)
    assert line["log_likelihood"]["network"] < line["log_likelihood"]["exact"]


def test_absent_outputs_need_an_exact_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ask(monkeypatch, tmp_path / "joint.jsonl", "--task", "slcp", "--questions", "absent")
    assert "the exact posterior is known for --task gaussian_linear" in capsys.readouterr().err
