"""Diffusion posterior: exact times, and a flow whose answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import testing
from estimators.npse import NPSE, NPSESettings

SPREAD = 0.3


class Exact(NPSE):
    """The denoiser of u ~ N(1, SPREAD^2), whatever x."""

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        share = SPREAD**2 / (SPREAD**2 + t.square())
        return 1 + share * (noisy - 1)


def exact(longest: float = 50.0) -> Exact:
    problem = testing.make("npse", width=8, depth=0).problem
    return Exact(problem, NPSESettings(width=8, depth=0, T=longest))


def carried(z: Tensor, longest: float) -> Tensor:
    """Return where the flow carries u_T = 1 + T z: it keeps quantiles."""
    return 1 + SPREAD * longest * z / (longest**2 + SPREAD**2) ** 0.5


@pytest.mark.parametrize("steps", [1, 2, 10, 31])
def test_times_fall_from_the_longest_to_the_shortest(steps: int) -> None:
    model = exact()
    times = model.times(steps)
    assert len(times) == steps
    assert times[0] == model.T
    assert steps == 1 or times[-1] == pytest.approx(model.epsilon)
    assert all(a > b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("longest", [5.0, 50.0])
def test_the_flow_ends_in_the_known_normal_distribution(longest: float) -> None:
    model = exact(longest)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(4000, model.summary.width)
    draws = model.transport(z, context, 40)
    assert torch.allclose(draws, carried(z, model.T), atol=0.01)


def test_more_passes_are_closer_to_the_flow() -> None:
    model = exact()
    z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(500, model.summary.width)
    errors = [
        float((model.transport(z, context, n) - carried(z, model.T)).abs().mean())
        for n in (5, 10, 20, 40)
    ]
    assert np.all(np.diff(errors) < 0)


def test_each_pass_asks_every_member_once() -> None:
    model = testing.trained("npse", width=8, depth=1, members=3)
    calls = []
    for network in model.denoisers:  # type: ignore[union-attr]
        network.register_forward_hook(lambda *_: calls.append(1))
    model.posterior().sample(testing.rows(1)[1], 5, sampling_steps=7, seed=0)
    assert len(calls) == 3 * 7


@pytest.mark.parametrize("steps", [0, [20.0, 1.0], [1.0, 1.0], []])
def test_bad_times_are_refused(steps: object) -> None:
    posterior = testing.make("npse", width=8, depth=0, members=1).posterior()
    with pytest.raises(ValueError, match="steps"):
        posterior.sample(testing.rows(1)[1], 5, sampling_steps=steps, seed=0)  # type: ignore[arg-type]
