"""The camera against a slow implementation of its own, the images, and what is said where they are missing."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

import simulators
from simulators.fashion_denoising import (
    FILES,
    FOLDER,
    doubled,
    grey,
    photograph,
    photon_levels,
)
from simulators.observation import RowGenerators
from simulators.testing import check_simulator

SEEDS = np.array([3, 14, 15], np.uint64)


def clothes(n, size=28, seed=0):
    """Images with dark borders and few or many grey values."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size)).astype(np.uint8)
    images[0] = images[0] // 128 * 200  # two grey values
    images[:, :4] = 0
    return images


def write(folder, training, test):
    for name, values in zip(FILES, (training, test), strict=True):
        head = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(
            f">{values.ndim}I", *values.shape
        )
        (folder / name).write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("fashion"), clothes(40), clothes(520, seed=1))


def slowly_blurred(image, sigma):
    """A Gaussian blur as a double sum over mirrored pixels, up to four standard deviations."""
    radius = int(4 * sigma + 0.5)
    steps = range(-radius, radius + 1)
    weight = {d: np.exp(-0.5 * (d / sigma) ** 2) for d in steps}
    total = sum(weight.values())

    def mirrored(k, n):
        k %= 2 * n
        return k if k < n else 2 * n - 1 - k

    def along(rows):
        n = len(rows)
        return np.array(
            [sum(weight[d] * rows[mirrored(i + d, n)] for d in steps) / total for i in range(n)]
        )

    return along(along(image).T).T


@pytest.mark.parametrize("blur", [1.0, 2.5, 4.0])
def test_the_camera_is_that_of_a_slow_implementation(blur):
    images = clothes(3)
    seen = photograph(images, RowGenerators(SEEDS), blur)
    assert seen.dtype == np.float32
    for image, x, rng in zip(images, seen, RowGenerators(SEEDS), strict=True):
        levels = 1
        while levels < len(set(image.ravel().tolist())):
            levels *= 2
        counts = rng.poisson(image / 255 * levels)
        noisy = 0.5 * np.clip(counts / levels, 0, 1)
        np.testing.assert_allclose(x, slowly_blurred(noisy, blur), atol=1e-6)


def test_the_noise_is_poisson_with_the_level_of_the_grey_values():
    image = np.full((1, 28, 28), 51, np.uint8)  # u = 0.2
    image[0, 0, :7] = np.arange(100, 107)  # 8 grey values
    n = 2000
    seeds = np.random.default_rng(0).integers(2**64, size=n, dtype=np.uint64)
    seen = photograph(np.repeat(image, n, 0), RowGenerators(seeds), 1e-3)[:, 10:, :]
    assert seen.mean() == pytest.approx(0.5 * 0.2, rel=2e-3)
    assert seen.var() == pytest.approx(0.25 * 0.2 / 8, rel=0.01)


def test_the_levels_are_powers_of_two_from_the_distinct_values():
    images = np.zeros((4, 28, 28), np.uint8)
    for row, distinct in enumerate((1, 2, 3, 129)):
        images[row].ravel()[:distinct] = np.arange(distinct)
    assert photon_levels(images).tolist() == [1, 2, 4, 256]


def test_parameters_and_grey_values_are_one_and_the_same(folder):
    made = simulators.load("fashion_denoising", folder=folder)
    theta = made.prior.rows(0, np.arange(40))
    assert theta.min() == -1
    assert theta.max() <= 1
    np.testing.assert_array_equal(grey(theta).reshape(40, 28, 28), clothes(40))
    np.testing.assert_array_equal(
        made.simulate_block(theta, np.random.default_rng(0))["image"], clothes(40)
    )


def test_test_images_are_in_the_papers_order_without_its_validation_images(folder):
    prior = simulators.load("fashion_denoising", folder=folder).prior
    assert (prior.available(0), prior.available(1)) == (40, 20)
    order = np.random.default_rng(42).permutation(520)
    rows = prior.rows(1, prior.row_numbers(7, 1, np.arange(20)))
    np.testing.assert_array_equal(grey(rows).reshape(-1, 28, 28), clothes(520, seed=1)[order[500:]])


def test_a_doubled_image_keeps_its_mean_and_loses_its_steps(folder):
    images = clothes(5)
    large = doubled(images)
    assert large.shape == (5, 56, 56)
    np.testing.assert_allclose(large.mean((1, 2)), images.mean((1, 2)), atol=0.3)
    steps = np.abs(np.diff(large.astype(int), axis=2))
    assert steps.max() < np.abs(np.diff(images.astype(int), axis=2)).max()
    made = simulators.load("fashion_denoising", folder=folder, size=56)
    assert made.parameter_shape == (56, 56)
    assert made(theta=made.prior.sample(np.random.default_rng(0), 1)[0], seed=1)["x"].shape == (
        56,
        56,
    )


@pytest.mark.parametrize("size", [28, 56])
def test_the_laws_of_a_simulator_hold(folder, size):
    check_simulator(simulators.load("fashion_denoising", folder=folder, size=size))


def test_the_cameras_differ_by_their_blur(folder):
    def contrast(camera):
        made = simulators.load("fashion_denoising", folder=folder, camera=camera)
        return made(theta=made.prior.rows(0, np.array([3])), seed=0)["x"].std()

    assert contrast("weak") > 1.2 * contrast("paper") > 1.2**2 * contrast("strong")
    with pytest.raises(ValueError, match="valid: paper, strong, weak"):
        simulators.load("fashion_denoising", folder=folder, camera="blurry")
    with pytest.raises(ValueError, match="valid: 28, 56"):
        simulators.load("fashion_denoising", folder=folder, size=32)


def test_missing_images_name_the_package(tmp_path):
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        simulators.load("fashion_denoising", folder=str(tmp_path))


def test_images_of_another_size_are_refused(tmp_path):
    write(tmp_path, clothes(9, size=32), clothes(520))
    with pytest.raises(
        ValueError, match=r"uint8 of shape \(9, 32, 32\); valid is uint8 \(n, 28, 28\)"
    ):
        simulators.load("fashion_denoising", folder=str(tmp_path))


@pytest.mark.skipif(
    not Path(FOLDER).exists(), reason="needs the Debian package dataset-fashion-mnist"
)
def test_the_real_images_have_the_pixel_statistics_that_are_known():
    made = simulators.load("fashion_denoising")
    assert (made.prior.available(0), made.prior.available(1)) == (60_000, 9_500)
    theta = made.prior.rows(0, np.arange(60_000))
    assert theta.mean() == pytest.approx(-0.428, abs=1e-3)
    assert theta.std() == pytest.approx(0.706, abs=1e-3)
    levels = photon_levels(grey(theta[:5000]).reshape(-1, 28, 28))
    assert np.isin(levels, (128, 256)).mean() > 0.97
    first = made.prior.rows(1, made.prior.row_numbers(0, 1, np.arange(100)))
    assert np.sqrt((first**2).mean(axis=1)).mean() == pytest.approx(0.822, abs=1e-3)
    x = made.observed({"image": grey(first).reshape(-1, 28, 28)}, np.arange(100, dtype=np.uint64))[
        "x"
    ]
    error = np.sqrt((((4 * x - 1).reshape(100, -1) - first) ** 2).mean(axis=1)).mean()
    assert error == pytest.approx(0.349, abs=2e-3)
