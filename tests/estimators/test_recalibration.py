"""Recalibrated draws cover as often as they say, whatever the posterior is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import estimators
from estimators import ArtefactError, testing
from estimators.recalibration import FILE, moved, placed

pytestmark = pytest.mark.filterwarnings("ignore::estimators.OutOfRangeWarning")
LEVELS = (0.1, 0.5, 0.8, 0.9, 0.95)


def biased(mean: Tensor, n: int = 400) -> Tensor:
    """Return draws (B, n, 2) of a posterior that is off by 0.4 and too narrow, or too wide."""
    return mean[:, None] + 0.4 + torch.tensor([0.5, 1.6]) * torch.randn(len(mean), n, 2)


def coverage(truth: Tensor, draws: Tensor, level: float) -> Tensor:
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = draws.double().quantile(ends, dim=1)
    return ((truth >= low) & (truth <= high)).double().mean(0)


def test_coverage_is_nominal_in_the_mean_over_small_sets_of_rows() -> None:
    """Thirty rows are enough: over many such sets the mean coverage is the level, up to 2 / (m + 1)."""
    torch.manual_seed(0)
    rows, repeats = 30, 200
    mean = torch.randn(repeats * (rows + 5), 2)
    truth = mean + torch.randn(len(mean), 2)
    draws = biased(mean)
    scores = placed(truth, draws).view(repeats, -1, 2)
    held, others = scores[:, :rows].sort(dim=1).values, draws.view(repeats, rows + 5, -1, 2)
    after = torch.cat([moved(others[k, rows:], held[k]) for k in range(repeats)])
    left = truth.view(repeats, rows + 5, 2)[:, rows:].reshape(-1, 2)
    for level in LEVELS:
        error = (coverage(left, after, level) - level).abs().max()
        assert error < 0.05, f"{level}: off by {error:.3f}"  # 1 / 31, and sampling error of 0.014
    before = coverage(left, others[:, rows:].reshape(len(left), -1, 2), 0.9)
    assert before[0] < 0.65, "the posterior was not off to begin with"
    assert before[1] > 0.95, "the posterior was not off to begin with"


def test_many_rows_leave_little_error() -> None:
    torch.manual_seed(1)
    mean = torch.randn(6000, 2)
    truth, draws = mean + torch.randn(6000, 2), biased(mean, 300)
    held = placed(truth[:3000], draws[:3000]).sort(dim=0).values
    after = moved(draws[3000:], held)
    for level in LEVELS:
        assert (coverage(truth[3000:], after, level) - level).abs().max() < 0.03


def test_scores_are_ranks_that_go_on_beyond_the_draws() -> None:
    draws = torch.tensor([[[0.0], [1.0], [2.0], [4.0]]])
    for value, score in ((0.0, 0.125), (0.5, 0.25), (3.0, 0.75), (4.0, 0.875), (6.0, 1.375)):
        assert placed(torch.tensor([[value]]), draws).item() == pytest.approx(score)
    assert placed(torch.tensor([[-2.0]]), draws).item() == pytest.approx(0.125 - 0.5)


def test_scores_of_a_perfect_posterior_leave_draws_where_they_are() -> None:
    torch.manual_seed(2)
    draws = torch.randn(3, 99, 2)
    even = (torch.arange(1, 1000).double() / 1000)[:, None].expand(-1, 2)
    assert (moved(draws, even) - draws).abs().median() < 0.01


def test_draws_keep_their_order_and_bounds() -> None:
    posterior = testing.trained("nsf", hidden=[16], transforms=1).posterior()
    theta, x = testing.rows(60, seed=4)
    estimators.recalibrate(posterior, theta, x)
    plain = posterior.sample(testing.rows(3)[1], 1200, seed=7)
    after = posterior.sample(testing.rows(3)[1], 1200, seed=7, calibrated=True)
    low, high = torch.tensor(testing.LOW), torch.tensor(testing.HIGH)
    assert ((after >= low) & (after <= high)).all()
    assert not torch.equal(plain, after)
    rank = plain[0, :, 0].argsort()
    assert (after[0, rank, 0].diff() >= 0).all()
    few = {name: values[0] for name, values in testing.rows(3)[1].items()}
    assert posterior.sample(few, 5, seed=7, calibrated=True).shape == (5, 2)


def test_it_is_kept_beside_the_weights_it_belongs_to(tmp_path: Path) -> None:
    estimator = testing.trained("cmpe", width=16)
    estimators.save(tmp_path / "p", estimator, {})
    posterior, (theta, x) = estimators.load(tmp_path / "p"), testing.rows(40)
    weights = estimators.description.read(tmp_path / "p")[0]["weights"]["sha256"]
    found = estimators.recalibrate(
        posterior, theta, x, sampling_steps=[2, 3], rows="forty", weights=weights
    )
    found.save(tmp_path / "p")
    again = estimators.load(tmp_path / "p")
    one = posterior.sample(x, 3, sampling_steps=2, seed=1, calibrated=True)
    assert torch.equal(again.sample(x, 3, sampling_steps=2, seed=1, calibrated=True), one)
    assert again.recalibration is not None
    assert (again.recalibration.rows, again.recalibration.count) == ("forty", 40)
    with pytest.raises(
        ValueError, match=r"sampling_steps = 10: the posterior is recalibrated for 2, 3"
    ):
        again.sample(x, 3, calibrated=True)
    estimators.save(tmp_path / "p", testing.trained("cmpe", width=8), {})
    found.save(tmp_path / "p")  # of other weights
    assert estimators.load(tmp_path / "p").recalibration is None
    (tmp_path / "p" / FILE).write_bytes(b"PK damaged")
    with pytest.raises(ArtefactError, match="damaged"):
        estimators.load(tmp_path / "p")


def test_what_does_not_fit_is_refused() -> None:
    posterior, (theta, x) = testing.trained("cmpe", width=8).posterior(), testing.rows(10)
    with pytest.raises(ValueError, match=r"evaluate\.calibrated=true"):
        posterior.sample(x, 5, calibrated=True)
    with pytest.raises(ValueError, match=r"theta has shape \(10, 1\); valid is \(m, 2\)"):
        estimators.recalibrate(posterior, np.asarray(theta)[:, :1], x)
    with pytest.raises(ValueError, match="m >= 2"):
        estimators.recalibrate(posterior, theta[:1], {k: v[:1] for k, v in x.items()})
