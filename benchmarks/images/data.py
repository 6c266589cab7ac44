"""Images of the simulator with what the camera sees of them, and their classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import simulators
from simulators.data_set import read_idx
from simulators.fashion_denoising import FOLDER, grey, photograph

LABELS = "train-labels-idx1-ubyte.gz"


@dataclass(frozen=True)
class Images:
    """True images, in [-1, 1], and observations; both flat, shape (n, D)."""

    theta: np.ndarray
    x: np.ndarray

    def rows(self, count: int, first: bool) -> Images:
        """Return the first `count` rows, or all others."""
        part = slice(None, count) if first else slice(count, None)
        return Images(self.theta[part], self.x[part])


def observed(theta: np.ndarray, size: int, seed: int) -> Images:
    """Return images (n, D) with one observation of each by the simulator's camera."""
    simulator = simulators.load("fashion_denoising", size=size)
    pictures = grey(theta).reshape(-1, size, size)
    rng = np.random.default_rng(seed)
    seen = photograph(pictures, rng, 2.5 * size / 28)  # type: ignore[arg-type]
    assert simulator.parameter_shape == (size, size)
    return Images(np.asarray(theta, dtype=np.float64), seen.reshape(len(seen), -1).astype(float))


def training_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first training images in [-1, 1], shape (count, 784), and their classes."""
    pictures = read_idx(Path(FOLDER) / "train-images-idx3-ubyte.gz")[:count]
    classes = read_idx(Path(FOLDER) / LABELS)[:count]
    return pictures.reshape(len(pictures), -1) / 127.5 - 1, classes.astype(np.int64)
