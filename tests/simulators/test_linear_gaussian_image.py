"""The linear-Gaussian image: its closed-form posterior against dense linear algebra, at D = 784 and 3136 too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal, norm

import simulators
from simulators.linear_gaussian_image import (
    SmoothImages,
    from_cosines,
    linear_gaussian_image,
    to_cosines,
)


def dense(size: int, blur: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the prior's covariance, the camera's matrix and the posterior's covariance, each (D, D)."""
    made = linear_gaussian_image.target(size, blur, noise)
    unit = np.eye(size**2).reshape(-1, size, size)
    basis = from_cosines(unit).reshape(size**2, -1)  # F, one coefficient's image a row
    covariance = basis.T @ np.diag(made.prior.variance.ravel()) @ basis
    camera = basis.T @ np.diag(made.transfer.ravel()) @ basis
    posterior = np.linalg.inv(np.linalg.inv(covariance) + camera.T @ camera / noise**2)
    return covariance, camera, posterior


def test_posterior_is_that_of_dense_matrices() -> None:
    size, noise = 5, 0.3
    covariance, camera, expected = dense(size, 1.0, noise)
    made = linear_gaussian_image.target(size, 1.0, noise)
    x = np.random.default_rng(0).normal(size=(size, size))
    mean, variance = made.posterior(x)
    assert np.allclose(from_cosines(mean).ravel(), expected @ camera.T @ x.ravel() / noise**2)
    assert np.allclose(np.sort(variance.ravel()), np.linalg.eigvalsh(expected))
    draws = made.exact({"x": x}, 40_000, np.random.default_rng(1))
    assert np.abs(np.cov(draws.T) - expected).max() < 0.03 * expected.max()
    assert np.trace(covariance) / size**2 == pytest.approx(1.0)


def test_blur_is_gaussian_with_reflected_edges() -> None:
    made = linear_gaussian_image.target(32, 1.5, 1e-6)
    image = made.prior.sample(np.random.default_rng(0), 1)
    seen = made.simulate(image, np.random.default_rng(1))[0]
    expected = gaussian_filter(image.reshape(32, 32), 1.5, mode="reflect", truncate=8)
    assert np.abs(seen - expected).max() < 0.02 * np.abs(expected).max()


def test_densities_are_those_of_normal_distributions() -> None:
    made = linear_gaussian_image.target(4, 1.0, 0.2)
    covariance, camera, _ = dense(4, 1.0, 0.2)
    rng = np.random.default_rng(0)
    theta, x = made.prior.sample(rng, 3), rng.normal(size=(4, 4))
    expected = multivariate_normal(np.zeros(16), covariance).logpdf(theta)
    assert np.allclose(made.prior.log_prob(theta), expected)
    likelihood = norm.logpdf(x.ravel(), theta @ camera.T, 0.2).sum(1)
    assert np.allclose(made.log_likelihood(theta, {"x": x}), likelihood)


@pytest.mark.parametrize("size", [28, 56])
def test_exact_draws_cover_the_truth_as_often_as_they_should(size: int) -> None:
    made = linear_gaussian_image.target(size)
    rng = np.random.default_rng(2)
    theta = made.prior.sample(rng, 20)
    x = made.simulate(theta, rng)
    mean, variance = made.posterior(x)
    truth = theta.reshape(-1, size, size)

    z = (to_cosines(truth) - mean) / np.sqrt(variance)
    for level in (0.5, 0.9):
        share = (np.abs(z) < norm.ppf(0.5 + level / 2)).mean()
        assert share == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / z.size))
    draws = made.exact({"x": x[0]}, 300, rng)
    spectrum = to_cosines(draws.reshape(-1, size, size)).var(0, ddof=1)
    assert (spectrum / variance).mean() == pytest.approx(1.0, abs=0.01)


def test_it_is_a_simulator() -> None:
    made = simulators.load("linear_gaussian_image", size=8)
    assert made.parameter_shape == (8, 8)
    assert list(made.references) == ["exact"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 1}, "size must be a whole number from 2 to 256, got 1"),
        ({"blur": -1.0}, "blur must be a number >= 0, got -1.0"),
        ({"noise": 0.0}, "noise must be a number >= 1e-06, got 0.0"),
    ],
)
def test_bad_arguments_are_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulators.load("linear_gaussian_image", **given)


def test_prior_has_no_matrix_in_its_specification() -> None:
    assert SmoothImages(56).spec() == {"name": "smooth_images", "size": 56}
