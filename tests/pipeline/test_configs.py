"""Every configuration in `configs/` is complete and valid, names and arguments included."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import build, override, read
from pipeline.run import RunDirectory
from pipeline.stages import configure

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_configuration_passes_the_checks_of_a_run(path: Path, tmp_path: Path) -> None:
    config = configure(RunDirectory(tmp_path), path)
    for name in config.estimator.only:  # what is said of other estimators is checked as well
        configure(RunDirectory(tmp_path), path, [f"estimator.name={name}"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_budget_in_the_name_is_that_of_the_configuration(path: Path) -> None:
    budget = path.stem.rpartition("_")[2]
    if budget.isdigit():
        config = build(override(read(path), []))
        assert (config.budget, config.name) == (int(budget), path.stem.removesuffix(f"_{budget}"))
