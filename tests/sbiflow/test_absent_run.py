"""An answer for an observation of which a part is absent, by a joint estimator: draws, checks and page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from sbiflow import Normal, Run

NOISE = 0.5
ARGUMENTS = {"width": 32, "depth": 2, "absent_share": 0.7, "posterior_share": 0.9}


def test_an_observation_with_absent_outputs_gets_an_answer_and_its_checks(tmp_path: Path) -> None:
    """x_k = theta_k + N(0, 1/4): without its output a parameter has its prior, the other its own posterior."""

    def measured(a: float, b: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([a, b]) + NOISE * rng.normal(size=2), "y": rng.normal()}

    run = Run(
        tmp_path / "run", measured, prior={"a": Normal(0, 1), "b": Normal(0, 1)},
        budget=800, test=80,
        estimator={"name": "joint", "arguments": ARGUMENTS},
        train={"steps": 800, "learning_rate": 3e-3},
    )  # fmt: skip
    run.simulate()
    run.train()
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"x": [0.8, None]}))  # y is left out
    answer = run.infer(file, draws=1000, simulations=100)
    exact = 1 / (1 + NOISE**2)
    a, b = answer.draws.T
    assert a.mean() == pytest.approx(exact * 0.8, abs=0.2)
    assert a.std() == pytest.approx(np.sqrt(NOISE**2 * exact), abs=0.15)
    assert (b.mean(), b.std()) == (pytest.approx(0, abs=0.25), pytest.approx(1, abs=0.25))
    verdicts = {one.question: one for one in answer.checks}
    model, predictive = list(verdicts.values())[:2]
    assert (model.verdict, predictive.verdict) == ("good", "good"), verdicts
    assert predictive.values["inside_90"] == 1.0  # the one element that is there
    assert list(answer.rests_on) == ["x[0]"]
    page = (answer.path / "answer.html").read_text()
    assert "Simulations from the posterior" in page

    far = run.infer({"x": [40.0, np.nan]}, draws=100, simulations=100)
    assert far.checks[0].verdict == "doubt"
    assert "x[1]" not in far.checks[0].sentence
    for observation, said in (({"x": [np.nan] * 2}, "NaN alone"), ({"x": [np.inf, 0]}, "infinity")):
        with pytest.raises(UsageError, match=said):
            run.infer(observation)
