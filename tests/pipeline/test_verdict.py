"""What a posterior's numbers mean, said in words, and said wherever the numbers are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from evaluation.calibration import ece, sbc
from pipeline import show, stages
from pipeline.evaluate.metric import as_json
from pipeline.report.stage import report
from pipeline.report.verdict import verdicts
from pipeline.results import latest_training
from pipeline.stop import Stop
from pipeline.track.history import History
from tests.pipeline.conftest import Finished

OVERFITTED = {"minima": [{"phase": "training", "step": 300, "loss": 0.33, "end": 1.58}]}


def result(width: float = 1.0, shift: float = 0.0, seed: int = 0, **others: Any) -> dict[str, Any]:
    """Return an evaluation whose draws of `a` are too wide by a factor, or shifted; those of `b` are exact."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(200, 2))
    theta = centre + rng.normal(size=(200, 2))
    draws = centre[:, None] + np.array([width, 1]) * rng.normal(size=(200, 400, 2)) + [shift, 0]
    metrics = {"ece": as_json(ece(theta, draws)), "sbc": as_json(sbc(theta, draws))}
    for record in metrics.values():
        record |= {"n": 200, "draws": 400, "sampling_steps": 3}
    return {"metrics": metrics | others, "posterior": {"names": ["a", "b"]}}


def test_a_perfect_posterior_needs_no_words() -> None:
    quiet = [verdicts(result(seed=seed)) for seed in range(40)]
    assert sum(not words for words in quiet) >= 30
    assert not any("out of its calibration band" in " ".join(words[:1]) for words in quiet[:1])
    assert verdicts() == []


@pytest.mark.parametrize(
    ("width", "expected", "advice"),
    [(0.4, "overconfident about a:", "budget="), (2.5, "underconfident about a:", "train.steps=")],
)
def test_a_posterior_out_of_its_band_is_said_to_be_and_in_which_direction(
    width: float, expected: str, advice: str
) -> None:
    found = verdicts(result(width))
    assert found[0].startswith("The posterior is out of its calibration band: MaxECE is 0.")
    assert expected in found[0]
    assert advice in found[0]
    assert "about b" not in " ".join(found)


def test_shifted_draws_are_named_with_their_direction() -> None:
    assert "a (its draws are too high)" in " ".join(verdicts(result(shift=0.5)))
    assert "a (its draws are too low)" in " ".join(verdicts(result(shift=-0.5)))


def test_an_evaluation_of_an_earlier_version_says_no_direction() -> None:
    old = result(0.4)
    del old["metrics"]["ece"]["excess"]
    assert "out of its calibration band" in verdicts(old)[0]
    assert "confident" not in verdicts(old)[0]


def test_overfitting_weights_failures_and_knowing_nothing_are_said() -> None:
    done = OVERFITTED | {"effective_share": 0.5}
    bad = result(nrmse={"per_parameter": [1.42, 0.3]}, r2={"per_parameter": [-0.01, 0.9]}) | {
        "failed_share": {"train": {"share": 0.3}, "test": {"share": 0.0}}
    }
    found = verdicts(bad, done)
    assert found[0].startswith(
        "Training overfits: the validation loss rose from 0.33 at step 300 to 1.58. "
        "The weights of step 300 are kept."
    )
    assert "dropout" in found[0]
    assert "count as 50%" in found[1]
    assert any("no more than the prior about a (" in words for words in found)
    assert any(words.startswith("30.0% of the training simulations are not ok") for words in found)


def test_a_symmetric_posterior_is_not_said_to_know_nothing() -> None:
    found = verdicts(result(nrmse={"per_parameter": [1.22, 1.2]}, r2={"per_parameter": [0.0, 0.0]}))
    assert not any("no more than the prior" in words for words in found)


def test_the_words_stand_on_the_screen_in_json_in_the_report_and_in_mlflow(
    evaluated: Finished, tmp_path: Any
) -> None:
    run = evaluated.run
    path = run.training(latest_training(run)) / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text())
    assert metrics["failed_share"]["train"]["share"] > 0.05
    told = stages.evaluate(evaluated.config, run, Stop())
    assert any("training simulations are not ok" in words for words in told["verdicts"])
    assert "training simulations are not ok" in show.metrics(told)
    assert "training simulations are not ok" in report(run).read_text()
    record = next(iter(History(run, tmp_path, whole=False).records()))
    assert "training simulations are not ok" in record.tags["sbiflow.verdict"]
    assert "training simulations are not ok" in record.tags["mlflow.note.content"]
