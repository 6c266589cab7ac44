"""The simulator `fashion_images`, and what a simulator without outputs may be."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import simulators
from simulators import DataPrior, Uniform, simulator
from simulators.fashion_denoising import FILES


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Two idx files of random images, as the Debian package has them."""
    rng = np.random.default_rng(0)
    for name, count in zip(FILES, (20, 510), strict=True):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes()
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(head + images.tobytes())
    return str(tmp_path)


def test_its_parameters_are_those_of_the_camera_and_it_has_no_outputs(folder: str) -> None:
    made = simulators.load("fashion_images", folder=folder)
    camera = simulators.load("fashion_denoising", folder=folder)
    assert isinstance(made.prior, DataPrior)
    assert isinstance(camera.prior, DataPrior)
    assert made.parameter_shape == (28, 28)
    for stream in (0, 1):
        ids = np.arange(made.prior.available(stream))
        assert np.array_equal(
            made.prior.row_numbers(3, stream, ids), camera.prior.row_numbers(3, stream, ids)
        )
    theta = made.prior.rows(0, np.arange(4))
    assert np.array_equal(theta, camera.prior.rows(0, np.arange(4)))
    assert made.simulate_block(theta, np.random.default_rng(0)) == {}
    assert made.simulate(theta[0], np.random.default_rng(0)) == {}


def test_a_prior_with_a_density_needs_outputs() -> None:
    @simulator(prior={"a": Uniform(0, 1)})
    def nothing(a):
        return {}

    with pytest.raises(ValueError, match="nothing returned no outputs"):
        nothing(a=0.5)
