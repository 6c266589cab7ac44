"""ArviZ opens the file of an answer, and its own functions run on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

from evaluation.marginals import marginals
from evaluation.predictive import predictive_check
from pipeline.answer.answer import Answer
from pipeline.answer.write import write


@pytest.mark.slow
def test_functions_of_arviz_run_on_an_answer(tmp_path: Path) -> None:
    import arviz_stats

    rng = np.random.default_rng(0)
    draws, prior = rng.normal(1, 0.2, (2000, 2)), rng.normal(0, 1, (2000, 2))
    predicted = {"x": rng.normal(1, 0.5, (200, 6))}
    observed = {"x": rng.normal(1, 0.5, 6)}
    check = predictive_check(observed["x"], predicted["x"])
    answer = write(
        Answer(
            ("a", "b"), ("linear", "linear"), observed, draws, prior,
            predicted=predicted, prior_predicted=predicted, predictive=check,
        ),
        tmp_path,
    )  # fmt: skip
    assert answer.path
    with xarray.open_datatree(answer.path / "answer.nc", engine="h5netcdf") as tree:
        table = arviz_stats.summary(tree, round_to="none")
        assert table["mean"].to_numpy() == pytest.approx(draws.mean(0))
        hdi = arviz_stats.hdi(tree, prob=0.9)
        ours = marginals(draws, prior).hpd
        assert hdi["a"].to_numpy() == pytest.approx(ours[1, 0], abs=0.02)
