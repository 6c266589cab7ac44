"""The benchmark of inverse solvers: its scores at known values, tuning, records, and neural operators."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.inverse import exact, networks, neural, scores, sensitivity, tables
from benchmarks.inverse.problems import CASES
from benchmarks.inverse.record import MeasuredLog
from estimators import inverse

TINY = replace(exact.SMALL["mixture_2"], seeds=1, measurements=2, draws=60, passes=(10,), pairs=0)
TINY = replace(TINY, validation=2, validation_draws=20)


def test_scores_have_their_known_values() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 20_000, 3, generator=generator) for _ in range(2))
    assert scores.coverage(one, other) == pytest.approx(torch.full((2,), 0.9), abs=0.01)
    assert scores.coverage(0.5 * one, other) == pytest.approx(torch.full((2,), 0.589), abs=0.01)
    assert scores.sliced(one, other).max() < 0.03
    assert scores.sliced(one + 2.0, other) == pytest.approx(torch.full((2,), 2.0), rel=0.15)


def test_methods_are_tuned_measured_and_ranked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = MeasuredLog(tmp_path / "record.jsonl")
    exact.run("mixture_2", TINY, record, ("dps", "cm_smc"))
    lines = [json.loads(line) for line in record.path.read_text().splitlines()]
    tried = [one for one in lines if " dps 10 validation " in one["key"]]
    best = min(tried, key=lambda one: np.mean(one["sliced"]))["settings"]
    (measured,) = (one for one in lines if one["key"] == "mixture_2 dps 10 seed 0")
    assert measured["settings"] == best
    monkeypatch.setattr(exact, "solved", lambda *_: pytest.fail("measured again"))
    exact.run("mixture_2", TINY, MeasuredLog(record.path), ("dps", "cm_smc"))
    table = tables.exact("mixture_2", 10, record).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| exact draws", "| cm_smc", "| dps"]
    (curves,) = sensitivity.curves(record).values()
    assert len(curves["dps"]) == len(tried)
    assert sensitivity.picture(record, tmp_path).stat().st_size > 1000


def test_the_exact_posterior_covers_the_truth() -> None:
    problem = CASES["mixture_10"](0, 200)
    draws = problem.exact(200, 0)
    low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=1)
    inside = ((problem.theta >= low) & (problem.theta <= high)).float().mean()
    assert inside == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("task", networks.TASKS)
def test_neural_operators_are_trained_once(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(40, 784, generator=generator) - 1
    classes = torch.randint(10, (40,), generator=generator)
    monkeypatch.setattr(networks, "labelled", lambda: (images, classes))
    monkeypatch.setattr(networks, "STEPS", 2)
    for held_out in (False, True):
        made = networks.operator_of(task, held_out=held_out, folder=tmp_path)
        f = made.A(images[:3])
        assert f.shape == {"segmenter": (3, 11, 28, 28), "classifier": (3, 10)}.get(task, (3, 64))
        monkeypatch.setattr(networks, "_trained", lambda *_: pytest.fail("trained again"))
        again = networks.operator_of(task, held_out=held_out, folder=tmp_path)
        assert torch.equal(again.A(images[:3]), f)
        monkeypatch.undo()
        monkeypatch.setattr(networks, "labelled", lambda: (images, classes))
        monkeypatch.setattr(networks, "STEPS", 2)


def test_pixels_of_the_foreground_have_the_class_of_the_image() -> None:
    image = torch.full((1, 784), -1.0)
    image[0, 0] = 0.5
    labels = networks.segmentation(image, torch.tensor([4]))
    assert labels[0, 0, 0] == 5
    assert labels.sum() == 5


def test_intersection_over_union_of_maps() -> None:
    y = torch.zeros(1, 2, 2, dtype=torch.long)
    y[0, 0, 0] = 3
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 3, 0] = (
        1.0  # the first row is taken for class 3: of class 3 one pixel of two, of 0 two of three
    )
    made = inverse.Operator(lambda theta: logits, inverse.CategoricalNoise())
    assert neural.intersection(made, y, torch.zeros(1, 4)) == pytest.approx([(1 / 2 + 2 / 3) / 2])


def test_all_variants_are_methods() -> None:
    from estimators.inverse import arguments

    for method, given in neural.VARIANTS.values():
        assert set(given) <= set(arguments(method))
