"""The posterior's interface: shapes, chunks, and observations that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import estimators
from estimators import posterior as module
from estimators import testing


def test_log_prob_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = testing.trained("nsf", hidden=[16], transforms=2).posterior()
    theta, x = testing.rows(12)
    grid = np.stack([theta, theta[::-1], theta / 2], axis=1)
    whole = posterior.log_prob(grid, x)
    monkeypatch.setattr(module, "ROWS", 5)
    monkeypatch.setattr(module, "OBSERVATIONS", 3)
    assert whole.shape == (12, 3)
    assert torch.allclose(posterior.log_prob(grid, x), whole, atol=1e-5)


def test_observations_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = testing.trained("nsf", hidden=[16], transforms=2).posterior()
    x = testing.rows(4)[1]
    far = {
        key: value + 10 * np.arange(4).reshape(-1, *[1] * (value.ndim - 1))
        for key, value in x.items()
    }
    with pytest.warns(estimators.OutOfRangeWarning):
        whole = posterior.sample(far, 500, seed=0).mean(1)
    monkeypatch.setattr(module, "ROWS", 300)
    with pytest.warns(estimators.OutOfRangeWarning):
        again = posterior.sample(far, 500, seed=1).mean(1)
    assert torch.allclose(again, whole, atol=0.2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"counts": np.zeros((2, 3))}, "trace"),
        ({"counts": np.zeros((2, 3)), "trace": np.zeros((2, 4, 3))}, r"valid is \(B, 4, 2\)"),
        ({"counts": np.zeros((2, 3)), "trace": np.zeros((3, 4, 2))}, "different numbers"),
        ({"counts": np.zeros(3), "trace": np.zeros((1, 4, 2))}, r"one observation \(counts\)"),
        (np.zeros((2, 3)), "give the outputs by name: counts, trace"),
        ({"counts": np.full((1, 3), np.nan), "trace": np.zeros((1, 4, 2))}, "NaN"),
    ],
)
def test_wrong_observation(x: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        testing.make("cmpe", width=8).posterior().sample(x, 2)


def test_wrong_theta() -> None:
    posterior = testing.make("nsf", hidden=[8]).posterior()
    with pytest.raises(ValueError, match=r"valid is \(3, n, 2\)"):
        posterior.log_prob(np.zeros((3, 2)), testing.rows(3)[1])


def test_it_tells_shapes_and_passes() -> None:
    posterior = testing.make("cmpe", width=8, sampling_steps=4).posterior()
    assert posterior.x_shapes == testing.OUTPUTS
    assert posterior.sampling_steps == 4
    assert testing.make("nsf", hidden=[8]).posterior().sampling_steps is None


def test_large_networks_draw_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a pass, times what a row takes, stay below the limit; D of them for a Jacobian."""
    f = testing.make("fmpe", network="transformer", width=8, sampling_steps=2)
    posterior, x, seen = f.posterior(), testing.rows(3)[1], []
    velocity = f.velocity
    monkeypatch.setattr(f, "velocity", lambda u, *rest: seen.append(len(u)) or velocity(u, *rest))
    monkeypatch.setattr(module, "FLOATS", 100 * (f.row_memory + f.summary.width))
    assert posterior.sample(x, 150, seed=0).shape == (3, 150, 2)
    assert set(seen) == {100, 50}
    seen.clear()
    posterior.sample_with_log_prob(x, 50, seed=0)
    assert max(seen) == 50


def test_summary_network_sees_few_large_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    f = testing.make("nsf", hidden=[8], transforms=1)
    posterior, x, seen = f.posterior(), testing.rows(7)[1], []
    whole = posterior.sample(x, 3, seed=0)
    summary = f.summary.forward
    monkeypatch.setattr(f.summary, "forward", lambda x: seen.append(len(x["counts"])) or summary(x))
    monkeypatch.setattr(module, "FLOATS", module.CHANNELS * 11 * 3)
    assert torch.allclose(posterior.sample(x, 3, seed=0), whole, atol=1e-5)
    assert seen == [3, 3, 1]


def test_bfloat16_gives_about_the_same_draws() -> None:
    posterior, x = testing.trained("cmpe", width=32).posterior(), testing.rows(2)[1]
    exact = posterior.sample(x, 200, seed=0)
    short = posterior.sample(x, 200, seed=0, bf16=True)
    assert short.dtype == torch.float32
    assert not torch.equal(short, exact)
    assert (short - exact).abs().mean() < 0.05


def test_density_of_one_pass_follows_the_transform() -> None:
    """A consistency function that is u = z T / 2 gives theta the density of its prior's transform."""
    f = testing.make("cmpe", width=8, bounds="probit")
    f.consistency_function = lambda noisy, context, t: noisy / f.T  # type: ignore[method-assign]
    draws, log_prob = f.posterior().sample_with_log_prob(
        testing.rows(1)[1], 500, sampling_steps=1, seed=0
    )
    u = f.transform(draws)
    expected = -0.5 * u.square().sum(-1) - np.log(2 * np.pi) + f.transform.log_abs_det(draws)
    assert torch.allclose(log_prob, expected, atol=1e-2)


def test_several_passes_have_no_density_and_say_what_has() -> None:
    posterior = testing.make("cmpe", width=8, bounds="probit").posterior()
    with pytest.raises(NotImplementedError, match=r"10 passes .*steps=1.*estimators\.distil"):
        posterior.sample_with_log_prob(testing.rows(1)[1], 2)


def test_many_parameters_have_no_exact_jacobian() -> None:
    theta = np.random.default_rng(0).normal(size=(20, 21))
    f = estimators.create("cmpe", theta, {"x": theta}, width=8)
    with pytest.raises(NotImplementedError, match="Jacobian of 21 parameters; up to 20"):
        f.posterior().sample_with_log_prob({"x": theta[:1]}, 2, sampling_steps=1)


def test_negative_count() -> None:
    with pytest.raises(ValueError, match="-1"):
        testing.make("cmpe", width=8).posterior().sample(testing.rows(1)[1], -1)


def test_no_seed_follows_the_global_generator() -> None:
    posterior, x = testing.make("cmpe", width=8).posterior(), testing.rows(1)[1]
    torch.manual_seed(4)
    first = posterior.sample(x, 9)
    assert not torch.equal(first, posterior.sample(x, 9))
    torch.manual_seed(4)
    assert torch.equal(first, posterior.sample(x, 9))


def test_the_former_name_of_sampling_steps_is_taken_with_a_warning() -> None:
    posterior, x = testing.make("npse", width=8, members=1).posterior(), testing.rows(2)[1]
    new = posterior.sample(x, 5, sampling_steps=3, seed=1)
    with pytest.warns(DeprecationWarning, match="'steps' is deprecated.*'sampling_steps'"):
        assert torch.equal(posterior.sample(x, 5, steps=3, seed=1), new)
    with pytest.warns(DeprecationWarning, match="'steps' is deprecated.*'sampling_steps'"):
        assert posterior.steps == posterior.sampling_steps == 30
