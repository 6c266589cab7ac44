"""The bound by sampling error: moments of a posterior that the prior does not cut, tilted draws, the fit."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import two_moons_sampling_error as bound
from simulators.two_moons import two_moons

X = np.array([[-0.4, 0.1], [0.0, -0.2]])


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "DRAWS", 2000)


def moments(g: np.ndarray) -> np.ndarray:
    return bound.features(bound.tilted(X, g, 0), X[:, None])


def test_the_posterior_that_no_wall_cuts_has_independent_moments() -> None:
    assert bound.uncut(X).all()
    phi = moments(np.zeros((2, 7)))
    np.testing.assert_allclose(phi.mean(1), 0, atol=0.1)
    np.testing.assert_allclose(np.einsum("bnk,bnl->kl", phi, phi) / 4000, np.eye(7), atol=0.12)


def test_a_tilt_moves_the_moments_by_as_much() -> None:
    g = np.zeros((2, 7))
    g[0, 0], g[1, 2] = 0.2, -0.2
    np.testing.assert_allclose(moments(g).mean(1), g, atol=0.1)


@pytest.mark.parametrize("x", [[-1.05, 0.0], [-0.4, 0.7], [0.3, 0.0]])
def test_a_posterior_that_the_prior_cuts_is_not_tilted(x: list[float]) -> None:
    at = np.array([x])
    assert not bound.uncut(at).any()
    found = bound.tilted(at, np.full((1, 7), 0.1), 0)
    assert np.array_equal(found, bound.tilted(at, np.zeros((1, 7)), 0))


def test_the_fit_shrinks_with_the_number_of_simulations() -> None:
    sizes = []
    for count in (300, 3000):
        rng = np.random.default_rng(0)
        theta = two_moons.prior.sample(rng, count)
        x = two_moons.simulate_block(theta, rng)["x"]
        g = bound.fitted(bound.residuals(theta, x), x, 1, X)
        assert g.shape == (2, 7)
        sizes.append(np.sqrt((g**2).mean()))
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[1] < 0.05
