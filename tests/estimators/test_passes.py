"""Times of few passes: a case whose best time is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import testing
from estimators.consistency import ConsistencyEstimator
from estimators.passes import best_times, energy_score
from estimators.posterior import Posterior
from estimators.problem import InferenceProblem

SPREAD, WRONG = 0.3, 2.0


class Half(ConsistencyEstimator):
    """Right for u ~ N(0, SPREAD^2) up to t = 0.5; beyond, its draws are twice as wide."""

    epsilon, T, rho, sampling_steps = 1e-3, 20.0, 7.0, 2

    def __init__(self, problem: object, *, bounds: str = "reflect", summary: str = "identity"):
        super().__init__(problem, bounds=bounds, summary=summary, summary_arguments=None)  # type: ignore[arg-type]
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def consistency_function(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        exact = noisy * SPREAD / (SPREAD**2 + t.square()).sqrt()
        return exact * (WRONG if float(t) > 0.5 else 1.0)


class Thrown(Half):
    """Throws whatever is far out further, as a network may that extrapolates."""

    def consistency_function(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        return torch.where(noisy.abs() > 2, 3 * noisy, noisy)


def rows() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    theta = 1.5 + SPREAD * rng.normal(size=(400, 2))
    return theta, testing.rows(400)[1]


def problem() -> InferenceProblem:
    return testing.make("npse", width=8, depth=0).problem


def posterior() -> Posterior:
    model = Half(problem())
    model.transform.standard.mean.fill_(1.5)
    return model.posterior()


@pytest.mark.filterwarnings("ignore::estimators.training_range.OutOfRangeWarning")
def test_the_second_pass_goes_where_the_function_is_right() -> None:
    model, (theta, x) = posterior(), rows()
    start = model.module.times(2)  # type: ignore[operator]
    times = best_times(model, theta, x, 2)
    assert times[0] == start[0]
    assert times[1] <= 0.5 < start[1] or start[1] <= 0.5
    assert energy_score(model, theta, x, times, 64, 0) <= energy_score(
        model, theta, x, start, 64, 0
    )


@pytest.mark.filterwarnings("ignore::estimators.training_range.OutOfRangeWarning")
def test_the_energy_score_is_smallest_for_the_right_spread() -> None:
    theta, x = rows()
    model = posterior()
    right = energy_score(model, theta, x, [20.0, 0.5, 0.4], 64, 0)
    wide = energy_score(model, theta, x, [20.0], 64, 0)
    assert right < wide


def test_errors_name_what_is_wrong() -> None:
    theta, x = rows()
    with pytest.raises(TypeError, match="npse"):
        best_times(testing.make("npse", width=8, depth=0).posterior(), theta, x, 2)
    with pytest.raises(ValueError, match="passes"):
        best_times(posterior(), theta, x, 0)
    with pytest.raises(ValueError, match="theta has shape"):
        best_times(posterior(), theta[:3], x, 2)


def test_no_pass_takes_a_draw_out_of_the_training_range() -> None:
    theta, x = testing.tensors(*rows())
    model = Thrown(problem())
    generator = torch.Generator().manual_seed(0)
    context = torch.zeros(2000, model.summary.width)
    times = [3.0, *torch.linspace(0.5, 0.01, 30).tolist()]
    free = model.sample_latent(context, generator, times)
    assert free.abs().max() > 1e10
    model.standardise(theta, x)
    u = model.transform(theta)
    low, high = u.amin(0), u.amax(0)
    assert torch.equal(model.low, low - (high - low) / 4)
    assert torch.equal(model.high, high + (high - low) / 4)
    kept = model.sample_latent(context, generator, times)
    assert ((kept >= model.low) & (kept <= model.high)).all()


def test_a_parameter_that_a_pass_would_throw_out_keeps_its_value() -> None:
    model = Thrown(problem())
    model.low.fill_(-4.0)
    model.high.fill_(4.0)
    context = torch.zeros(5000, model.summary.width)
    first = model.sample_latent(context, torch.Generator().manual_seed(1), [1.0])
    second = model.sample_latent(context, torch.Generator().manual_seed(1), [1.0, 0.01])
    out = first.abs() > 2.1  # thrown to more than 6, by whatever noise of 0.01
    assert out.any(1).sum() > out.all(1).sum() > 0  # alone and together
    assert torch.equal(second[out], first[out])
    assert (second != first)[first.abs() < 1.9].all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_constant_parameter_does_not_keep_the_others_from_moving() -> None:
    theta, x = testing.tensors(*rows())
    theta[:, 1] = 0.25
    model = Half(problem())
    model.standardise(theta, x)
    context = torch.zeros(500, model.summary.width)
    first = model.sample_latent(context, torch.Generator().manual_seed(1), [1.0])
    second = model.sample_latent(context, torch.Generator().manual_seed(1), [1.0, 0.4])
    assert torch.equal(second[:, 1], model.low[1].expand(500))
    assert (second != first)[:, 0].all()


def test_limits_are_kept_in_an_artefact_and_not_asked_of_an_old_one() -> None:
    model, other = (Half(problem()) for _ in range(2))
    model.standardise(*testing.tensors(*rows()))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.low, model.low)
    old = {k: v for k, v in model.state_dict().items() if k not in ("low", "high")}
    other = Half(model.problem)
    other.load_state_dict(old)
    assert other.high.isinf().all()
