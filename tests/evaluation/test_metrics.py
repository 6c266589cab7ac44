"""The table of metrics: every member is found, wants known arrays and keeps its promises."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import evaluation

IMAGES = {n for n in evaluation.TABLE if "image" in n or "pixels" in n}


def arrays(size: int = 2, sets: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "theta": rng.normal(size=(sets, size)),
        "draws": rng.normal(size=(sets, 40, size)),
        "references": rng.normal(size=(sets, 30, size)),
        "prior": rng.normal(size=(50, size)),
        "x": np.ones((sets, 1)) * np.arange(sets)[:, None],
        "seconds": np.array([0.1, 0.2]),
        "log_prob": rng.normal(size=sets),
        "log_prob_draws": rng.normal(size=(sets, 20)),
    }


@pytest.mark.parametrize("name", sorted(evaluation.TABLE))
def test_every_metric_is_a_function_of_arrays_with_a_definition(name: str) -> None:
    given = arrays(144 if name in IMAGES else 2, 100 if name == "c2st_local" else 6)
    before = {key: value.copy() for key, value in given.items()}
    metric = evaluation.load(name)
    result = metric(**{key: given[key] for key in evaluation.needs(metric)})
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    assert isinstance(values["definition"], str)
    assert "mean" in values or "max" in values
    for key, value in values.items():
        assert isinstance(value, (str, int, float, tuple, np.ndarray)), key
    assert all(np.array_equal(before[key], given[key]) for key in given)


def test_the_table_is_sorted_and_available() -> None:
    assert list(evaluation.TABLE) == sorted(evaluation.TABLE)
    assert evaluation.available() == sorted(evaluation.available())
    assert set(evaluation.TABLE) <= set(evaluation.available())


def test_an_unknown_name_gets_the_close_ones() -> None:
    with pytest.raises(LookupError, match="unknown metric 'c2ts'; did you mean 'c2st'"):
        evaluation.load("c2ts")


def test_an_outsider_needs_no_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outsider_metric.py").write_text(
        "def spread(draws):\n    return draws.std()\ndef odd(likelihood):\n    return 0.0\n"
    )
    info = tmp_path / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sbiflow.metrics]\nspread = outsider_metric:spread\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert "spread" in evaluation.available()
        draws = arrays()["draws"]
        for name in ("spread", "outsider_metric:spread"):
            assert evaluation.load(name)(draws) == draws.std()
        with pytest.raises(TypeError, match=r"\['likelihood'\]; it can have theta"):
            evaluation.load("outsider_metric:odd")
        with pytest.raises(LookupError, match="no attribute 'absent'"):
            evaluation.load("outsider_metric:absent")
    finally:
        sys.modules.pop("outsider_metric", None)
