"""Bayesian denoising: which image of clothing did a camera see that blurs and counts few photons?

    theta = image in [-1, 1],   u = (theta + 1) / 2
    v = 2^ceil(log2 k),   k = number of distinct grey values of the image
    x = blur(gain * min(1, Poisson(u v) / v)),   gain = 0.5

The prior is the data set Fashion-MNIST, of 28 x 28 pixels of 256 grey values. The noise is the camera's alone,
and is drawn afresh (`simulators.observation`): the store keeps images.

Definition: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv 2312.05440.
Images: Fashion-MNIST (2017), arXiv 1708.07747.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from simulators.data_prior import DataPrior
from simulators.data_set import read_idx
from simulators.distribution import Array
from simulators.factory import simulator
from simulators.observation import RowGenerators

FOLDER = "/usr/share/datasets/fashion-mnist"
FILES = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
PACKAGE = "dataset-fashion-mnist"
SIDE = 28
SIZES = (28, 56)
BLURS = {"paper": 2.5, "strong": 4.0, "weak": 1.0}  # standard deviations in pixels of 28
GAIN = 0.5
LEVELS = 255.0  # the largest grey value
SMOOTH = 1.0  # standard deviation in pixels of 56, by which a doubled image loses its steps
VALIDATION = 500  # test images that the paper looks at during training
ORDER_SEED = 42  # of the paper's order of the test images

Images = NDArray[np.uint8]


@simulator(batched=True)
class fashion_denoising:  # noqa: N801 - the simulator's name
    """Images of clothing behind a camera with noise and blur.

    Training takes the first images of the training file, in their order; test simulations take the test
    images in the paper's order, without its 500 validation images.

    Arguments:
        camera: how much it blurs: paper (2.5 pixels), strong (4) or weak (1).
        size: 28, or 56 for doubled images, smoothed by 1 pixel, and twice the blur in pixels.
        folder: where the files of the Debian package dataset-fashion-mnist are.
    """

    def __init__(self, camera: str = "paper", size: int = SIDE, folder: str = FOLDER) -> None:
        if camera not in BLURS:
            raise ValueError(f"fashion_denoising: camera={camera!r}; valid: {', '.join(BLURS)}")
        if size not in SIZES:
            raise ValueError(f"fashion_denoising: size={size!r}; valid: 28, 56")
        self.size = int(size)
        self.blur = BLURS[camera] * size / SIDE
        training, test = _read(folder)
        order = np.random.default_rng(ORDER_SEED).permutation(len(test))
        self.prior = ImagePrior(training, test[order[VALIDATION:]], self.size)

    def simulate(self, theta: Array) -> dict[str, Images]:
        """Return the images (n, size, size) in grey values 0 .. 255."""
        return {"image": grey(theta).reshape(-1, self.size, self.size)}

    def observe(self, latent: dict[str, Images], rng: RowGenerators) -> NDArray[np.float32]:
        """Return what the camera sees of images, shape (n, size, size)."""
        return photograph(latent["image"], rng, self.blur)


class ImagePrior(DataPrior):
    """Fashion-MNIST in [-1, 1], at its own size or twice that."""

    def __init__(self, training: Images, test: Images, size: int) -> None:
        self.size = size
        super().__init__(
            training,
            held_out=test,
            label="image",
            shuffle=False,
            offset=-1.0,
            scale=2 / LEVELS,
            low=-1.0,
            high=1.0,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size, self.size

    def _parameters(self, values: Images) -> Array:
        return super()._parameters(values if self.size == SIDE else doubled(values))


@lru_cache(maxsize=1)
def _read(folder: str) -> tuple[Images, Images]:
    """Return the training and the test images, (n, 28, 28)."""
    images: list[Images] = []
    for name in FILES:
        path = Path(folder) / name
        if not path.is_file():
            raise ValueError(
                f"fashion_denoising: {path} is missing; the Debian package {PACKAGE} has it: "
                f"`apt-get install {PACKAGE}`, or give its folder as simulator.arguments.folder"
            )
        images.append(_checked(path, read_idx(path), VALIDATION * len(images)))
    return images[0], images[1]


def _checked(path: Path, values: NDArray[Any], needed: int) -> Images:
    if values.dtype != np.uint8 or values.shape[1:] != (SIDE, SIDE) or len(values) <= needed:
        raise ValueError(
            f"fashion_denoising: {path} holds {values.dtype} of shape {values.shape}; "
            f"valid is uint8 (n, {SIDE}, {SIDE}) with more than {needed} images"
        )
    return values


def grey(theta: NDArray[Any]) -> Images:
    """Return the grey values 0 .. 255 nearest to parameters in [-1, 1]."""
    return np.rint((np.clip(theta, -1, 1) + 1) * (LEVELS / 2)).astype(np.uint8)


def doubled(images: Images) -> Images:
    """Return images (n, h, w) at twice the size, (n, 2 h, 2 w): pixels are doubled, then smoothed."""
    large = images.repeat(2, axis=1).repeat(2, axis=2).astype(np.float64)
    return np.rint(gaussian_filter(large, (0, SMOOTH, SMOOTH))).astype(np.uint8)


def photograph(images: Images, rng: RowGenerators, blur: float) -> NDArray[np.float32]:
    """Return what a camera sees of images, float32.

    Arguments:
        images: u in grey values, uint8 (n, height, width).
        rng: the generators of the rows.
        blur: standard deviation of the Gaussian blur, in pixels.
    """
    levels = photon_levels(images)[:, None, None]
    seen = rng.poisson(images / LEVELS * levels) / levels
    seen = GAIN * np.minimum(seen, 1.0)
    return gaussian_filter(seen, (0, blur, blur)).astype(np.float32)


def photon_levels(images: Images) -> NDArray[np.float64]:
    """Return v = 2^ceil(log2 k) of images with k distinct grey values, shape (n,)."""
    rows = np.sort(images.reshape(len(images), -1), axis=1)
    distinct = 1 + (rows[:, 1:] != rows[:, :-1]).sum(axis=1)
    return 2.0 ** np.ceil(np.log2(distinct))
