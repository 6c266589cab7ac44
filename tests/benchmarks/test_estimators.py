"""The benchmark of estimators: its settings are the configurations, and a wrong choice is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import estimators as bench
from benchmarks.estimators import METHODS, TASKS, main, plan_for
from pipeline.config import build, read


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--budgets", "2048"], "2048: no settings.*two_moons 1024, 8192; .*slcp 10000.*configs/"),
        (["--tasks", "slcp", "--budgets", "1024", "10000"], "1024: no settings.*slcp 10000"),
        (["--tasks", "two_moon"], "two_moon.*two_moons"),
        (["--definitions", "mine"], "mine.*paper"),
    ],
)
def test_a_choice_without_settings_is_refused(
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr(sys, "argv", ["estimators", *words, "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert re.search(expected, capsys.readouterr().err.replace("\n", " "))
    assert not out.exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_method_takes_its_arguments_from_the_configuration(task: bench.Task, method: str) -> None:
    for budget in task.budgets:
        config = build(read(bench.CONFIGS / f"{task.name}_{budget}.yaml"))
        plan = plan_for(task.name, method, budget)
        shared = config.estimator.arguments
        assert plan.arguments == shared | config.estimator.only.get(method, {})
        if method == config.estimator.name:
            assert (plan.steps, plan.rate) == (config.train.steps, config.train.learning_rate)
            assert plan.validation == config.train.validation


def test_settings_that_are_published() -> None:
    """Figures in the README were measured with these."""
    plan = plan_for("two_moons", "cmpe_distilled", 8192)
    assert round(plan.arguments["teacher_fraction"] * plan.steps) == 36_000
    assert (plan.steps, plan.rate, plan.decay, plan.validation) == (130_000, 3e-3, 1e-4, 0.01)
    plan = plan_for("gaussian_mixture", "fmpe", 1024)
    assert (plan.steps, plan.decay, plan.arguments["input_scale"]) == (7200, 0.1, 3.0)
    plan = plan_for("slcp", "nsf", 10_000)
    assert (plan.steps, plan.rate, plan.batch, plan.patience) == (40_000, 5e-4, 32, 4)
