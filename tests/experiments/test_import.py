"""Every experiment can be imported and answers `--help`, where it has options."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import pytest

import experiments

MODULES = [m.name for m in pkgutil.walk_packages(experiments.__path__, "experiments.")]


@pytest.mark.parametrize("name", MODULES)
def test_an_experiment_is_imported(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize(
    "name", ["experiments.few_step.__main__", "experiments.two_moons_sampling_error"]
)
def test_an_experiment_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(name).main()
    assert stopped.value.code == 0
    assert "--seeds" in capsys.readouterr().out
