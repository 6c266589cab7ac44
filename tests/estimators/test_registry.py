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
        ("cpme", "did you mean 'cmpe'.*Valid: acf, cmpe, .*nsf"),
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


def test_arguments_are_the_configuration() -> None:
    assert estimators.arguments("cmpe")["network"] == "mlp"
    assert "problem" not in estimators.arguments("nsf")


def test_names_are_known_without_torch() -> None:
    program = "import sys, estimators; estimators.available(); assert 'torch' not in sys.modules"
    root = Path(estimators.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
