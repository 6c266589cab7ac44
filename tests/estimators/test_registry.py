"""Names, arguments and training rows that are wrong are refused with what would be right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import estimators

THETA = np.random.default_rng(0).uniform(-1, 1, (10, 2))
X = {"x": THETA.copy()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpme", "did you mean 'cmpe'.*Valid: acf, auto, cmpe, .*nsf"),
        ("no_such_module:Thing", "no_such_module"),
        ("estimators.cmpe:CMP", "did you mean 'CMPE'"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(LookupError, match=message):
        estimators.create(name, THETA, X)


def test_something_else_behind_the_name() -> None:
    with pytest.raises(TypeError, match="subclass"):
        estimators.create("estimators.summary.deepset:DeepSet", THETA, X)


def test_unknown_argument() -> None:
    with pytest.raises(TypeError, match=r"'widht'.*did you mean 'width'.*Valid: .*depth"):
        estimators.check("cmpe", {"widht": 3})


@pytest.mark.parametrize(
    ("name", "former", "new", "value"),
    [
        ("cmpe", "gain", "input_scale", 2.0),
        ("fmpe", "steps", "sampling_steps", 7),
        ("cmpe_distilled", "teaching", "teacher_fraction", 0.4),
        ("cmpe_distilled", "slower", "student_rate", 0.2),
        ("cmpe_distilled", "kept", "replay_size", 30),
    ],
)
def test_a_former_name_is_taken_with_a_warning(
    name: str, former: str, new: str, value: float
) -> None:
    with pytest.warns(DeprecationWarning, match=f"'{former}' is deprecated.*'{new}'"):
        estimators.check(name, {former: value})
    with pytest.warns(DeprecationWarning, match=f"'{former}' is deprecated.*'{new}'"):
        made = estimators.create(name, THETA, X, width=4, **{former: value})
    assert made.arguments == {"width": 4, new: value}
    assert getattr(made, new) == value


def test_both_names_of_an_argument_are_refused() -> None:
    with pytest.raises(TypeError, match="'gain' is the former name of 'input_scale': give one"):
        estimators.create("cmpe", THETA, X, gain=1.0, input_scale=2.0)


def test_the_former_name_of_the_problem_is_known() -> None:
    with pytest.warns(DeprecationWarning, match="InferenceProblem"):
        assert estimators.Problem is estimators.InferenceProblem


def test_arguments_are_the_configuration() -> None:
    assert estimators.arguments("cmpe")["network"] == "mlp"
    assert "problem" not in estimators.arguments("nsf")


def test_names_are_known_without_torch() -> None:
    program = "import sys, estimators; estimators.available(); assert 'torch' not in sys.modules"
    root = Path(estimators.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_a_name_of_a_former_version_still_opens_and_says_what_to_write(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match=r"'benchmarks\.paper\.cmpe_paper:CMPEPaper'"):
        model = estimators.create("cmpe_paper", THETA, X, width=8)
    estimators.save(tmp_path / "posterior", model, {})
    with pytest.warns(FutureWarning, match=r"write 'benchmarks\.paper"):
        posterior = estimators.load(tmp_path / "posterior")
    assert posterior.sample(X, 3, steps=1, seed=0).shape == (10, 3, 2)
    assert "cmpe_paper" not in estimators.available()


def test_a_name_of_a_former_version_outside_of_the_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    monkeypatch.setitem(sys.modules, "benchmarks.paper", None)
    monkeypatch.delitem(sys.modules, "benchmarks.paper.cmpe_paper", raising=False)
    expected = r"benchmarks\.paper\.cmpe_paper:CMPEPaper'.*clone of its repository"
    with (
        pytest.warns(FutureWarning, match="cmpe_paper"),
        pytest.raises(LookupError, match=expected),
    ):
        estimators.check("cmpe_paper", {})
