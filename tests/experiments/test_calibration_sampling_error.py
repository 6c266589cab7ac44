"""MaxECE by the sampling error of the simulations."""

import numpy as np
import pytest

from evaluation.calibration import null_max_ece
from experiments.calibration_sampling_error import fitted_max_ece


def test_many_simulations_leave_the_error_of_a_perfect_sampler() -> None:
    fitted = fitted_max_ece(100_000, 100, 2, 50)
    assert fitted.mean() == pytest.approx(null_max_ece(100, 2).mean(), rel=0.25)


def test_as_many_simulations_as_test_sets_double_its_variance() -> None:
    ratio = fitted_max_ece(1000, 1000, 2, 400).mean() / null_max_ece(1000, 2).mean()
    assert ratio == pytest.approx(np.sqrt(2), rel=0.1)
