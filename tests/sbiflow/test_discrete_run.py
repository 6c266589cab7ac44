"""A run with a whole number, a category and a real parameter: from simulations to the page and a refinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UsageError
from sbiflow import Categorical, Integer, Normal, Run

PRIOR = {"k": Integer(0, 4), "c": Categorical([0.3, 0.7]), "a": Normal(0, 1)}
X = np.array([2.1, 3.2])


@pytest.mark.slow
def test_discrete_parameters_from_simulation_to_answer(tmp_path: Path) -> None:
    def counted(k: int, c: int, a: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": np.array([len(range(k)), 3 * c + a]) + 0.5 * rng.normal(size=2)}

    run = Run(
        tmp_path / "run", counted, prior=PRIOR, budget=600, test=80,
        estimator={"name": "mixed", "arguments": {"transforms": 2, "hidden": [24, 24]}},
        train={"steps": 400, "learning_rate": 3e-3},
    )  # fmt: skip
    run.simulate()
    run.train()
    metrics = str(run.evaluate())
    assert "sbc" in metrics
    answer = run.infer(X, draws=1000, simulations=100)
    assert np.array_equal(answer.draws[:, :2], answer.draws[:, :2].round())
    k, c, _ = answer.rows()
    assert (k["mode"], c["mode"], c["mean"]) == (2.0, 1.0, None)
    shares = {value: after for value, after, _ in answer.probabilities["k"]}
    assert shares[2] > 0.5
    assert "P(k = 2)" in str(answer)
    assert "posterior probability" in (answer.path / "answer.html").read_text()
    assert answer.to_dataframe()["mean"].isna().sum() == 1
    refined = run.refine(X, 60, rounds=1, draws=300)
    assert np.array_equal(refined.draws[:, :2], refined.draws[:, :2].round())
    with pytest.raises(UsageError, match="'k' is integer; valid: mixed"):
        run.train(estimator="nsf")
