"""Metrics of images, at values that are known by a formula or by another implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import norm

import evaluation
from evaluation.features import damaged, feature_network, trained
from evaluation.image_scores import (
    class_calibration,
    coverage_pixels,
    fractional_ranks,
    functionals,
    grey_step,
    rmse_image,
    sbc_image,
)
from evaluation.mmd import BANDWIDTHS
from evaluation.population import (
    Distance,
    frechet,
    frechet_images,
    kernel_distance,
    kernel_images,
    mmd_images,
)

SIDE = 12
PIXELS = SIDE**2


def normal_images(sets: int, draws: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return truths and draws of N(mean_i, 1) and N(mean_i, spread^2): calibrated for spread = 1."""
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(sets, 1, PIXELS))
    theta = mean[:, 0] + rng.normal(size=(sets, PIXELS))
    return theta, mean + spread * rng.normal(size=(sets, draws, PIXELS))


def blobs(count: int, seed: int, sharpness: float = 1.0) -> np.ndarray:
    """Return images (n, 144) of one bright disc each, blurred and with noise where sharpness < 1."""
    rng = np.random.default_rng(seed)
    place, radius = rng.uniform(4, SIDE - 4, (count, 2)), rng.uniform(1.5, 4, count)
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(y - place[:, :1, None], x - place[:, 1:, None])
    images = 1 / (1 + np.exp(-4 * sharpness * (radius[:, None, None] - distance)))
    return images.reshape(count, -1) * rng.uniform(0.5, 1, (count, 1))


def test_rmse_is_that_of_draws() -> None:
    theta = np.zeros((2, 4))
    draws = np.stack([np.full((3, 4), 2.0), np.array([[3.0] * 4, [0.0] * 4, [0.0] * 4])])
    scores = rmse_image(theta, draws)
    assert np.allclose(scores.values, [2.0, math.sqrt(3.0)])
    assert scores.mean == pytest.approx((2 + math.sqrt(3)) / 2)


@pytest.mark.parametrize("spread", [0.7, 1.0, 1.5])
def test_coverage_of_normal_posteriors(spread: float) -> None:
    theta, draws = normal_images(500, 400, spread)
    found = coverage_pixels(theta, draws)
    for level, value in ((0.5, found.coverage_50), (0.9, found.coverage_90)):
        expected = 2 * norm.cdf(spread * norm.ppf(0.5 + level / 2)) - 1
        assert value == pytest.approx(expected, abs=0.01)
    assert found.varying == PIXELS
    assert np.nanstd(found.map_90) == pytest.approx(
        math.sqrt(found.coverage_90 * (1 - found.coverage_90) / 500), rel=0.25
    )


def test_coverage_of_grey_values_and_background() -> None:
    """Images of 40 grey values in [-1, 1], half of the pixels at the lowest: exact draws stay calibrated.

    No grey value is a multiple of the distance between two, which is that of the experiment's images too.
    """
    rng = np.random.default_rng(2)

    def drawn(*shape: int) -> np.ndarray:
        raw = rng.normal(size=shape).clip(0, 2) / 2
        return np.asarray(2 / 39 * np.round(39 * raw) - 1)

    theta, draws = drawn(800, 50), drawn(800, 100, 50)
    theta[:, 0], draws[:, :, 0] = -1.0, -1.0  # never varies
    assert grey_step(theta) == pytest.approx(2 / 39, rel=1e-3)
    off = rng.uniform(-0.4, 0.4, draws.shape) * 2 / 39  # what a network draws is not on the grid
    draws = (draws + off).clip(-1, 1)
    found = coverage_pixels(theta, draws)
    assert found.varying == 49
    assert np.isnan(found.map_50[0])
    assert found.coverage_50 == pytest.approx(0.5, abs=0.015)
    assert found.coverage_90 == pytest.approx(0.9, abs=0.01)
    ranks = fractional_ranks(theta, draws)
    assert np.histogram(ranks, 10, (0, 1))[0] / ranks.size == pytest.approx(0.1, abs=0.01)
    single = fractional_ranks(theta, draws.astype(np.float32))
    assert np.abs(single - ranks).max() < 1e-6


def test_continuous_images_have_no_grid() -> None:
    assert grey_step(np.random.default_rng(0).normal(size=(50, 30))) == 0.0


def test_projections_of_calibrated_images_stay_in_their_bands() -> None:
    found = sbc_image(*normal_images(300, 100))
    assert found.functionals[:3] == ("brightness", "contrast", "roughness")
    assert len(found.functionals) == 19
    assert len(found.outside) <= 4
    narrow = sbc_image(*normal_images(300, 100, 0.5))
    assert len(narrow.outside) == 19
    assert narrow.max > found.max


def test_functionals_have_their_formulas() -> None:
    image = np.arange(16.0)
    values = {name: float(f(image)) for name, f in functionals(16, 1).items()}
    assert values["brightness"] == 7.5
    assert values["contrast"] == pytest.approx(np.std(np.arange(16)))
    assert values["roughness"] == 1.0


def test_sureness_of_classes() -> None:
    truth = np.array([0, 0, 1, 1])
    drawn = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    found = class_calibration(truth, drawn)
    assert found.confidence == pytest.approx((0.75 + 1 + 0.75 + 0.75) / 4)
    assert found.accuracy == 0.75
    assert found.overconfidence == pytest.approx(0.0625)


def test_frechet_is_that_of_normal_distributions() -> None:
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(5, 5))
    a, b = rng.normal(size=(400, 5)), rng.normal(size=(300, 5)) @ mix + 2
    one, two = np.cov(a.T), np.cov(b.T)
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert frechet(a, b) == pytest.approx(expected)
    assert frechet(a, a + 3) == pytest.approx(45)
    assert frechet(a, 2 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(np.trace(one))


def test_kernel_distance_by_its_sums() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [
        np.mean([k(v[i], v[j]) for i in range(len(v)) for j in range(len(v)) if i != j])
        for v in (a, b)
    ]
    between = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * between)


def test_population_mmd_by_its_sums_and_with_its_floor() -> None:
    rng = np.random.default_rng(5)
    theta, draws, prior = (rng.normal(size=shape) for shape in ((6, 4), (6, 2, 4), (50, 4)))

    def naive(x: np.ndarray, y: np.ndarray) -> float:
        def mean(a: np.ndarray, b: np.ndarray) -> float:
            squared = np.square(a[:, None] - b[None]).sum(-1)
            return float(sum(np.exp(-squared / (2 * w)).mean() for w in BANDWIDTHS))

        return mean(x, x) + mean(y, y) - 2 * mean(x, y)

    found = mmd_images(theta, draws, prior)
    assert found.mean == pytest.approx(naive(theta, draws[:, 0]))
    assert found.floor == pytest.approx(naive(theta, prior[:6]))
    assert f"{found.floor:.4g}" in found.definition
    assert "cannot be ranked" in found.definition


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.mark.parametrize("metric", [frechet_images, kernel_images])
def test_distances_of_features_rank_what_pixels_cannot(
    metric: Callable[..., Distance], features: Path
) -> None:
    prior, theta = blobs(1500, 0), blobs(600, 1)
    rng = np.random.default_rng(2)
    draws = {
        "real": blobs(600, 3),
        "noise": blobs(600, 3) + 0.1 * rng.normal(size=(600, PIXELS)),
        "blurred": blobs(600, 3, sharpness=0.2),
    }
    found = {name: metric(theta, d[:, None], prior, cache=features) for name, d in draws.items()}
    assert len(list(features.iterdir())) == 1
    floor = found["real"].floor
    for name in ("noise", "blurred"):
        assert found[name].excess > 3 * abs(found["real"].excess)
        assert found[name].mean > floor


def test_features_are_the_same_again_and_from_the_cache(tmp_path: Path) -> None:
    images = blobs(200, 0)
    first = feature_network(images, tmp_path).features(images)
    assert np.array_equal(first, feature_network(images, tmp_path).features(images))
    assert np.array_equal(first, feature_network(images).features(images))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])  # damaged: trained anew
    assert np.array_equal(first, feature_network(images, tmp_path).features(images))


def test_a_classifier_learns_classes() -> None:
    images = blobs(600, 0)
    classes = (images.reshape(-1, SIDE, SIDE)[:, : SIDE // 2].sum((1, 2)) > images.sum(1) / 2) * 1
    network = trained(images[:500], classes[:500], seed=1)
    assert (network.classes(images[500:]) == classes[500:]).mean() > 0.85


def test_features_refuse_what_is_no_image() -> None:
    with pytest.raises(ValueError, match=r"\(50, 7\): features need at least 20 square images"):
        feature_network(np.zeros((50, 7)))


@pytest.mark.parametrize(
    "name",
    [
        "rmse_image",
        "coverage_pixels",
        "sbc_image",
        "mmd_images",
        "frechet_images",
        "kernel_images",
    ],
)
def test_metrics_have_names(name: str) -> None:
    assert set(evaluation.needs(evaluation.load(name))) <= {"theta", "draws", "prior"}


def test_damage_is_noise_and_blur() -> None:
    import torch

    images = torch.zeros(4, 8, 8)
    images[:, :, :4] = 1.0
    untouched = damaged(images, torch.zeros(4, 2), 1.0)
    assert torch.equal(untouched, images)
    noisy = damaged(images, torch.tensor([[1.0, 0.0]]).repeat(4, 1), 2.0)
    assert float((noisy - images).std()) == pytest.approx(1.0, abs=0.15)
    smooth = damaged(images, torch.tensor([[0.0, 1.0]]).repeat(4, 1), 2.0)
    assert float(smooth[0, 4, 3]) == pytest.approx(2 / 3, abs=1e-5)
