"""Learning curves: the fit at a known curve, its band, and where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.paper.forecast import check
from pipeline.study.curve import learning_curves, sentence


def rows(
    curve: Callable[[float], float],
    budgets: Sequence[int] = (512, 1024, 2048),
    seeds: int = 3,
    spread: float = 1e-6,
    seed: int = 0,
    **more: Any,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "state": "complete",
            "axes": {"estimator": "cmpe", "budget": str(budget), "seed": str(k)},
            "budget": budget,
            "validation_loss": None,
            "measured": [
                {"sampling_steps": 10, "metrics": {"c2st.mean": curve(budget) + spread * rng.normal()} | more}
            ],
        }
        for budget in budgets
        for k in range(seeds)
    ]  # fmt: skip


def test_a_known_curve_is_found() -> None:
    (one,) = learning_curves(rows(lambda n: 0.52 + 8 * n**-0.6))
    assert one["axes"] == {"estimator": "cmpe"}
    assert one["exponent"] == pytest.approx(0.6, abs=0.02)
    assert one["next"]["mean"] == pytest.approx(0.52 + 8 * 4096**-0.6, abs=1e-3)
    assert one["gain"]["mean"] == pytest.approx(8 * (2048**-0.6 - 4096**-0.6), abs=1e-3)
    assert one["estimator"]["mean"] == pytest.approx(0.02, abs=3e-3)
    told = sentence(one, "C2ST")
    assert "cmpe: C2ST, 10 sampling steps is 0.602" in told
    assert "4096 simulations are expected to bring 0.57" in told


def test_no_curve_falls_below_a_perfect_posterior() -> None:
    (one,) = learning_curves(rows(lambda n: 0.9 - 0.13 * np.log2(n / 512)))
    assert one["next"]["low"] >= 0.5
    assert one["offset"] >= 0.5


def test_a_flat_curve_promises_nothing() -> None:
    (one,) = learning_curves(rows(lambda n: 0.7, spread=0.005))
    assert one["gain"]["low"] < 1e-3
    assert one["gain"]["high"] < 0.02


def test_the_band_holds_what_comes_in_most_cases() -> None:
    inside = 0
    for k in range(40):
        rng = np.random.default_rng(100 + k)
        offset, power = rng.uniform(0.5, 0.56), rng.uniform(0.3, 1)

        def curve(n: float, offset: float = offset, power: float = power) -> float:
            return float(offset + 0.2 * (n / 512) ** -power)

        (one,) = learning_curves(rows(curve, spread=0.006, seed=k))
        inside += one["next"]["low"] <= curve(4096) <= one["next"]["high"]
    assert inside >= 28


def test_too_little_gives_no_curve() -> None:
    assert learning_curves(rows(lambda n: 1 / n, budgets=(512, 1024))) == []
    assert learning_curves(rows(lambda n: 1 / n, seeds=1)) == []  # nothing tells its noise
    (one,) = learning_curves(rows(lambda n: 0.5 + 50 / n, seeds=1, **{"c2st.sem": 0.004}))
    assert one["errors"] == pytest.approx([0.004] * 3)


def test_the_check_on_published_figures_counts_what_is_inside() -> None:
    budgets = [512, 1024, 2048, 4096, 8192]
    falling = [0.5 + 100 / n for n in budgets]
    one = {"budgets": budgets, "c2st": {"good": falling, "bad": [*falling[:4], 0.7]}}
    assert [row["inside"] for row in check({"task": one})] == [True, False]
