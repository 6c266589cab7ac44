"""Training on two workers of Ray Train: the curve of one, and going on after a stop."""

from __future__ import annotations

import numpy as np
import pytest

import estimators
from pipeline.errors import Stopped
from pipeline.stop import Stop
from pipeline.train.stage import train
from tests.pipeline.test_train import SMALL, configure, curves_of, make_run, same, weights

pytestmark = pytest.mark.timeout(900)


DISTILLED = {
    "name": "cmpe_distilled",
    "arguments": {**SMALL, "members": 2, "teacher_fraction": 0.01},
}
BOTH_PHASES = {
    "name": "cmpe_distilled",
    "arguments": {**SMALL, "members": 2, "teacher_fraction": 0.5, "dropout": 0.1, "jitter": 0.5},
}


def test_two_workers_give_the_curve_of_one(tmp_path):
    """Noise and dropout belong to rows, not to ranks; large steps would magnify what is rounded.

    `test_train_noise.py` compares the gradients of every estimator.
    """
    curves = []
    for workers in (0, 2):
        run = make_run(tmp_path / str(workers))
        config = configure(BOTH_PHASES, steps=30, workers=workers, learning_rate=1e-4)
        result = train(config, run, stop=Stop())
        posterior = estimators.load(result.directory / "posterior")
        assert posterior.sample({"x": np.zeros((1, 3))}, 5).shape == (1, 5, 2)
        curves.append(curves_of(result))
    for name in ("train", "validation"):
        alone, together = ([entry[name] for entry in curve] for curve in curves)
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [{}, DISTILLED], ids=["cmpe", "cmpe_distilled"])
def test_workers_stop_and_continue(tmp_path, estimator):
    config = configure(estimator, workers=2, steps=300)
    run = make_run(tmp_path / "run")
    stop = Stop()

    def log(event):
        stop.request("SIGTERM")

    with pytest.raises(Stopped, match="SIGTERM"):
        train(config, run, stop=stop, record=log)
    assert list(run.path.glob("trainings/*/state.pt"))
    result = train(config, run, stop=Stop())
    assert result.steps == 300
    whole = train(config, make_run(tmp_path / "whole"), stop=Stop())
    assert same(weights(result), weights(whole))
