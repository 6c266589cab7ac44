"""Recalibrated draws in a run: `evaluate.calibrated`, `sample --calibrated`, what the report advises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimators.recalibration import FILE
from pipeline.errors import UsageError
from pipeline.evaluate.stage import evaluate
from pipeline.infer.sample import sample
from pipeline.report.verdict import verdicts
from pipeline.results import POSTERIOR, Results, latest_training
from pipeline.stop import Stop
from pipeline.train.stage import train

X = {"x": np.array([0.3, -0.4])}


def test_draws_are_recalibrated_on_validation_rows_when_asked(
    finished: Any, tmp_path: Path
) -> None:
    config = finished.configure("train.validation=0.2", "evaluate.metrics=[ece]", "train.steps=100")
    train(config, finished.run, stop=Stop())
    plain = evaluate(config, finished.run, stop=Stop())
    asked = finished.configure(
        "train.validation=0.2", "evaluate.metrics=[ece]", "evaluate.calibrated=true"
    )
    result = evaluate(asked, finished.run, stop=Stop())
    count = result["settings"]["calibrated"]["count"]
    results = Results(finished.run, latest_training(finished.run))
    assert count == results.load().provenance["validation_rows"] >= 20
    assert result["settings"]["calibrated"]["rows"] == (
        f"the {count} validation rows among simulations 0 to 299"
    )
    assert result["metrics"]["ece"] != plain["metrics"]["ece"]
    assert "calibrated" not in plain["settings"]
    written = (results.folder / POSTERIOR / FILE).stat().st_mtime_ns
    assert evaluate(asked, finished.run, stop=Stop()) == result
    assert (results.folder / POSTERIOR / FILE).stat().st_mtime_ns == written
    draws = []
    for calibrated in (False, True):
        sample(finished.run, X, 1200, 3, 0, tmp_path / "d.npz", calibrated=calibrated)
        with np.load(tmp_path / "d.npz") as file:
            draws.append(file["theta"])
    assert draws[1].shape == (1200, 2)
    assert not np.array_equal(*draws)
    order = draws[0][:, 0].argsort()
    assert (np.diff(draws[1][order, 0]) >= 0).all()
    with pytest.raises(UsageError, match="is recalibrated for 3"):
        sample(finished.run, X, 10, 2, 0, tmp_path / "d.npz", calibrated=True)
    with pytest.raises(UsageError, match="give one of them"):
        sample(finished.run, X, 10, 3, 0, tmp_path / "d.npz", reweight=True, calibrated=True)


def test_too_few_rows_and_none_are_said(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"at least 20 are needed; train with more: train\.valid"):
        evaluate(finished.configure("evaluate.calibrated=true"), finished.run, stop=Stop())
    with pytest.raises(UsageError, match=r"was not recalibrated; run `sbiflow evaluate"):
        sample(finished.run, X, 10, 3, 0, tmp_path / "d.npz", calibrated=True)


def test_the_report_recommends_it_and_says_what_limits_it() -> None:
    ece = {"max": 0.2, "null_band": [0.0, 0.1], "per_parameter": [0.2], "excess": [-0.2], "n": 50}
    result: dict[str, Any] = {"metrics": {"ece": ece}, "posterior": {"names": ["a"]}}
    (words,) = verdicts(result, {"validation_rows": 25})
    assert "Or, without another training: evaluate.calibrated=true" in words
    (words,) = verdicts(result, {"validation_rows": 24})
    assert "would need 25 validation rows to be better; there are 24" in words
    moved = {"settings": {"calibrated": {"rows": "the 48 validation rows", "count": 48}}}
    (words,) = verdicts(result | moved)
    assert "recalibrated on the 48 validation rows" in words
    assert "0.071" in words
    assert "evaluate.calibrated=true" not in words
