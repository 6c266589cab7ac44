"""The tumour's configuration: one store, several estimators, a preprocessing by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import build, differences, override, read, save
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.stages import configure

TUMOR = Path(__file__).parents[2] / "configs" / "tumor.yaml"


def test_another_estimator_keeps_the_summary_and_takes_its_own_arguments(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    first = configure(run, TUMOR)
    save(first, run)
    second = configure(run, None, ["estimator.name=nsf"])
    assert list(differences(first, second)) == ["estimator.name"]
    shared = first.estimator.arguments
    assert first.estimator.settings == shared | first.estimator.only["cmpe_distilled"]
    assert second.estimator.settings == shared | second.estimator.only.get("nsf", {})
    assert {"summary", "summary_arguments"} <= set(second.estimator.settings)
    save(second, run)
    assert configure(run, None, ["estimator.name=cmpe_distilled"]) == first


def test_an_argument_in_two_places_is_refused() -> None:
    words = ["estimator.arguments.width=3", "estimator.only.cmpe.width=4"]
    with pytest.raises(UsageError, match=r"'width' is in arguments and in only\.cmpe"):
        build(override(read(TUMOR), words))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("estimator.preprocessing=tumour", "did you mean 'tumor_spheroid"),
        ("estimator.only.cmpe_distilled.wide=3", "did you mean 'width'"),
    ],
)
def test_wrong_names_are_refused_before_anything_runs(
    tmp_path: Path, word: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        configure(RunDirectory(tmp_path), TUMOR, [word])
