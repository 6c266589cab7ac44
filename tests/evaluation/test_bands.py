"""Metrics with null bands: closed forms at values that are not trivial, and bands that hold a perfect sampler."""

from __future__ import annotations

import inspect
from math import gamma, sqrt
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, norm

from evaluation import available, load, needs
from evaluation.c2st_pairs import c2st_pairs
from evaluation.contraction import contraction, z_score
from evaluation.coverage import (
    around,
    coverage,
    coverage_density,
    coverage_joint,
    deviation,
    fractions,
    tarp,
    tarp_posterior,
)
from evaluation.image_scores import rmse_image
from evaluation.log_prob import log_prob_truth
from evaluation.proper_scores import crps, energy
from evaluation.rmse import mae, nrmse, r2, rmse, rmse_paper

RNG = np.random.default_rng(3)
SETS, DRAWS, D = 400, 400, 3
Z = np.linspace(-5, 5, 4001)


def posterior(width: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """theta ~ N(0, 1), x = theta + N(0, 1): draws N(x/2 + shift sd, width^2 / 2), and draws of the prior."""
    rng = np.random.default_rng(5)
    theta = rng.normal(size=(SETS, D))
    mean = (theta + rng.normal(size=(SETS, D))) / 2
    noise = rng.normal(size=(SETS, DRAWS, D))
    draws = mean[:, None] + sqrt(0.5) * (width * noise + shift)
    return theta, draws, rng.normal(size=(20_000, D))


def test_deviation_is_the_kolmogorov_smirnov_statistic() -> None:
    from scipy.stats import kstest

    values = RNG.beta(2, 3, size=137)
    assert deviation(values) == pytest.approx(kstest(values, "uniform").statistic, rel=1e-12)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_tarp_with_a_far_point_is_the_closed_form(width: float) -> None:
    """From far on the left distance orders by theta: f = Phi(z / width) with z ~ N(0, 1)."""
    theta, draws, _ = posterior(width)
    far = np.full((SETS, 1), -1e4)
    found = around(far, theta[:, :1], draws[..., :1])
    expected = np.abs(norm.cdf(width * Z) - norm.cdf(Z)).max()  # P(f < Phi(z)) = Phi(width z)
    assert expected == pytest.approx(0.1613, abs=5e-4)
    assert deviation(found) == pytest.approx(expected, abs=2.5 * 0.5 / sqrt(SETS))


@pytest.mark.parametrize("width", [0.6, 1.6])
def test_joint_coverage_is_the_closed_form(width: float) -> None:
    """The truth has Mahalanobis distance r^2 / width^2 with r^2 ~ chi^2_D."""
    theta, draws, _ = posterior(width)
    found = coverage_joint(theta, draws)
    expected = chi2.cdf(chi2.ppf([0.5, 0.9, 0.95], D) * width**2, D)
    np.testing.assert_allclose(found.coverage, expected, atol=4 * 0.5 / sqrt(SETS))
    assert np.sign(found.excess) == np.sign(width - 1)
    assert found.max > found.null_band[1]


def test_coverage_of_intervals_is_the_closed_form() -> None:
    theta, draws, _ = posterior(0.6)
    found = coverage(theta, draws)
    half = norm.ppf(0.5 + np.array([0.5, 0.9, 0.95]) / 2)
    expected = 2 * norm.cdf(0.6 * half) - 1
    np.testing.assert_allclose(found.coverage.mean(1), expected, atol=4 * 0.5 / sqrt(SETS * D))
    assert found.max > found.null_band[1]


def test_crps_is_the_closed_form_of_a_normal() -> None:
    """CRPS(N(m, s), y) = s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) with z = (y - m) / s."""
    draws = RNG.normal(0.3, 0.7, size=(2, 40_000, 1))
    theta = np.array([[0.1], [1.5]])
    z = (theta[:, 0] - 0.3) / 0.7
    exact = 0.7 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / sqrt(np.pi))
    prior = RNG.normal(size=(1000, 1))
    found = crps(theta, draws, prior)
    assert found.mean * prior.std(ddof=1) == pytest.approx(exact.mean(), rel=0.02)
    one = energy(theta, draws[:, :400], prior)
    assert one.mean == pytest.approx(crps(theta, draws[:, :400], prior).mean, rel=1e-12)


def test_energy_score_is_the_closed_form_of_a_normal() -> None:
    """At the mean of N(0, I): E|X| (1 - sqrt(2) / 2), as X - X' is sqrt(2) X."""
    draws = RNG.normal(size=(40, 500, 3))
    length = sqrt(2) * gamma(2.0) / gamma(1.5)
    prior = RNG.normal(size=(200_000, 3))
    found = energy(np.zeros((40, 3)), draws, prior)
    assert found.mean == pytest.approx(length * (1 - sqrt(2) / 2), rel=0.01)


@pytest.mark.parametrize(("width", "shift"), [(0.5, 0.0), (1.0, 0.8)])
def test_contraction_and_z_score_are_the_closed_form(width: float, shift: float) -> None:
    theta, draws, prior = posterior(width, shift)
    np.testing.assert_allclose(contraction(theta, draws, prior).mean, 1 - width**2 / 2, atol=0.02)
    found = z_score(theta, draws)
    expected = sqrt((1 + shift**2) / width**2)
    np.testing.assert_allclose(found.per_parameter, expected, rtol=0.12)
    np.testing.assert_allclose(found.bias, shift / width, atol=0.35)
    assert found.mean > found.null_band[1]


@pytest.mark.parametrize(("width", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.0, 0.8)])
def test_contraction_by_errors_and_its_band_are_the_closed_form(width: float, shift: float) -> None:
    """Means miss the truth by variance (1 + shift^2) / 2, whatever the widths say."""
    found = contraction(*posterior(width, shift))
    assert found.by_error == pytest.approx(1 - (1 + shift**2) / 2, abs=0.06)
    assert found.null_band.mean() == pytest.approx(1 - width**2 / 2, abs=0.02)
    inside = found.null_band[0] <= found.by_error <= found.null_band[1]
    assert inside == (width == 1 and shift == 0)


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
def test_errors_and_their_bands_are_the_closed_form(width: float) -> None:
    """Draw - truth has variance (1 + width^2) / 2 over all; two draws of a test set have width^2."""
    theta, draws, prior = posterior(width)
    absolute, relative = mae(theta, draws), nrmse(theta, draws, prior)
    assert absolute.mean == pytest.approx(sqrt((1 + width**2) / np.pi), rel=0.04)
    assert absolute.null_band.mean() == pytest.approx(width * sqrt(2 / np.pi), rel=0.02)
    # sqrt(mean_s (theta - draw)^2) of one test set: z ~ N(0, 1/2) to the mean, width^2 / 2 around it
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-(z**2) / 2) / sqrt(2 * np.pi) * (z[1] - z[0])
    exact, perfect = (
        float(np.sum(np.sqrt((size * z**2 + width**2) / 2) * density)) for size in (1.0, width**2)
    )
    assert relative.mean == pytest.approx(exact, rel=0.04)
    assert relative.null_band.mean() == pytest.approx(perfect, rel=0.03)
    assert rmse(theta, draws).mean == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
def test_bands_of_explained_variance_and_of_images_are_the_closed_form(width: float) -> None:
    """Medians are m = x / 2 with variance 1/2, truths lie around them by 1/2, draws by width^2 / 2."""
    theta, draws, prior = posterior(width)
    explained, image = r2(theta, draws), rmse_image(theta, draws)
    assert explained.mean == pytest.approx(0.5, abs=0.05)
    perfect = 1 / (1 + width**2)
    assert explained.null_band.mean() == pytest.approx(perfect, abs=0.05)
    inside = explained.null_band[0] <= explained.mean <= explained.null_band[1]
    assert inside == (width == 1)
    # |theta - draw|^2 over D parameters: the truth's distance to m is a chi^2_D, that of a draw too
    square = np.random.default_rng(1).chisquare(D, 400_000)
    exact, null = (np.sqrt((size * square / D + width**2) / 2).mean() for size in (1.0, width**2))
    assert image.mean == pytest.approx(exact, rel=0.03)
    assert image.null_band.mean() == pytest.approx(null, rel=0.02)
    paper, absolute = rmse_paper(theta, draws, prior + 2), mae(theta, draws)
    assert paper.null_band * (prior.mean() + 2) == pytest.approx(absolute.null_band)


def test_coverage_by_density_is_the_closed_form() -> None:
    """log p is -z^2 / 2 and a constant: the truth has z ~ N(0, 1 / width^2) in the posterior's widths."""
    rng = np.random.default_rng(2)
    for width in (0.6, 1.0, 1.6):
        z, own = rng.normal(size=4000) / width, rng.normal(size=(4000, 300))
        found = coverage_density(-(z**2) / 2, -(own**2) / 2)
        expected = chi2.cdf(chi2.ppf([0.5, 0.9, 0.95], 1) * width**2, 1)
        np.testing.assert_allclose(found.coverage, expected, atol=0.03)
        assert (found.max > found.null_band[1]) == (width != 1.0)


# Their bands have a sampling error of their own.
OWN = (contraction, rmse, mae, r2, rmse_paper, rmse_image)


@pytest.mark.parametrize("metric", [tarp, tarp_posterior, coverage_joint, *OWN])
def test_blocks_give_the_numbers_of_all_test_sets(metric: Any) -> None:
    theta, draws, prior = posterior(0.8)
    whole = metric(*[{"theta": theta, "draws": draws, "prior": prior}[n] for n in needs(metric)])
    parts, found = metric.stream.parts, []
    for start in range(0, SETS, 10):
        rows = slice(start, start + 10)
        given = {"theta": theta[rows], "draws": draws[rows], "prior": prior}
        given |= {"all_theta": theta, "rows": rows}
        found.append(
            parts(**{k: given[k] for k in inspect.signature(parts).parameters if k in given})
        )
    joined = {k: np.concatenate([one[k] for one in found]) for k in found[0]}
    again = metric.stream.join(joined, DRAWS, prior)
    for name, value in vars(whole).items():
        if name == "null_band" and metric in OWN:
            np.testing.assert_allclose(getattr(again, name), value, rtol=0.1)
        elif not isinstance(value, str):
            np.testing.assert_allclose(getattr(again, name), value, rtol=1e-12)


def test_log_prob_and_its_band_are_the_closed_form() -> None:
    """E log N(theta; m, s) = -log(s sqrt(2 pi)) - 1 / (2 s^2) when the truth has width 1."""
    rng = np.random.default_rng(1)
    z, own = rng.normal(size=4000), rng.normal(size=(4000, 50))
    for width in (0.5, 1.0):
        found = log_prob_truth(norm.logpdf(z, scale=width), norm.logpdf(width * own, scale=width))
        exact = -np.log(width * sqrt(2 * np.pi)) - 0.5 / width**2
        assert found.mean == pytest.approx(exact, abs=4 * found.sem)
        inside = found.null_band[0] <= found.mean <= found.null_band[1]
        assert inside == (width == 1.0)


def test_bands_hold_a_perfect_sampler_and_not_others() -> None:
    theta, draws, prior = posterior()
    wrong = draws + 0.5
    for metric in (tarp, tarp_posterior, coverage, coverage_joint):
        assert metric(theta, draws).max < metric(theta, draws).null_band[1] * 1.3
        assert metric(theta, wrong).max > metric(theta, wrong).null_band[1]
    for score in (crps, energy):
        good, bad = score(theta, draws, prior), score(theta, wrong, prior)
        width = np.ptp(good.null_band)
        assert good.null_band[0] - width < good.mean < good.null_band[1] + width
        assert bad.mean > bad.null_band[1] + width


def test_pairs_name_the_wrong_parameter() -> None:
    rng = np.random.default_rng(0)
    references, draws = rng.normal(size=(2, 2, 150, 3))
    draws[..., 2] += 1.0
    found = c2st_pairs(references, draws)
    # the best classifier of N(0, 1) and N(1, 1) is right in Phi(1/2) = 0.691 of all cases
    assert found.matrix[0, 2] == pytest.approx(norm.cdf(0.5), abs=0.07)
    assert found.matrix[0, 1] == pytest.approx(0.5, abs=0.07)
    assert found.max == found.per_parameter[2]
    assert found.null_band[1] < found.mean


def test_fractions_of_ties_and_bad_shapes() -> None:
    assert fractions(np.array([1.0]), np.array([[0.0, 1.0, 2.0]])) == pytest.approx([2.0 / 4])
    with pytest.raises(ValueError, match=r"valid: \(B, D\) and \(B, n, D\)"):
        tarp(np.zeros((3, 2)), np.zeros((3, 10, 1)))
    with pytest.raises(ValueError, match="two parameters"):
        c2st_pairs(np.zeros((1, 10, 1)), np.zeros((1, 10, 1)))
    with pytest.raises(ValueError, match="too few"):
        coverage_joint(np.zeros((3, 8)), np.zeros((3, 10, 8)))


def test_all_are_in_the_table() -> None:
    for name in ("tarp", "coverage", "coverage_joint", "crps", "energy", "z_score", "log_prob"):
        assert name in available()
        assert needs(load(name))
