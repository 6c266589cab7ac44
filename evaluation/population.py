"""How far the images that a posterior draws are, as a population, from real images.

One draw for each test image is taken. Over all test images a perfect posterior's draws have the
distribution of the prior, so that they are as far from other real images as the true images are: that
distance is the floor that stands beside each number.

    mmd_images       MMD^2 of pixels by the CMPE paper's kernel (`evaluation.mmd`), between the draws and the
                     true images of the same test sets, in groups of at most 1583
    frechet_images   |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)),   means m and covariances C of features
    kernel_images    unbiased MMD^2 of features with the kernel (x . y / k + 1)^3, k features

The last two compare with images drawn from the prior, in features of a small network that is trained on
them and used for nothing else, see `evaluation.features`.

`mmd_images` is here to be compared with the paper. Its kernels are so narrow that the distance between two
sets of real images is nearly all bias: it cannot rank methods whose value is near its floor.

    GANs Trained by a Two Time-Scale Update Rule, 2017 (arXiv:1706.08500);
    Demystifying MMD GANs, 2018 (arXiv:1801.01401)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.features import feature_network
from evaluation.mmd import mmd_paper

GROUP = 1583  # images in one group, as in the paper: 6 groups of 9498


@dataclass(frozen=True)
class Distance:
    """A distance between populations of images.

    Attributes:
        mean: the distance of the draws.
        sem: its standard error over groups; NaN for one group.
        floor: the distance of real images that were not drawn by the posterior.
        excess: mean - floor; about 0 for a perfect posterior.
    """

    definition: str
    mean: float
    sem: float
    floor: float
    excess: float


def mmd_images(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> Distance:
    """MMD^2 of one draw for each test image and the true images, as in the CMPE paper.

    Arguments:
        theta: shape (B, D). draws: shape (B, n, D). prior: real images, shape (m, D).
    """
    groups = np.array_split(np.arange(len(theta)), max(1, len(theta) // GROUP))
    groups = [group[:GROUP] for group in groups]
    values = np.array([mmd_paper(theta[group], draws[group, 0]) for group in groups])
    size = min(len(groups[0]), len(prior))
    floor = mmd_paper(theta[groups[0]][:size], prior[:size])
    mean = float(values.mean())
    sem = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
    words = (
        f"CMPE paper's MMD^2 of pixels in {len(values)} groups of {len(groups[0])}. Unrelated real images "
        f"have {floor:.4g}: methods near that value cannot be ranked by it"
    )
    return Distance(words, mean, sem, floor, mean - floor)


def frechet_images(
    theta: np.ndarray, draws: np.ndarray, prior: np.ndarray, cache: Path | None = None
) -> Distance:
    """Fréchet distance of features of draws and of images from the prior.

    Arguments:
        theta: shape (B, D). draws: shape (B, n, D). prior: real images, shape (m, D).
        cache: folder in which the trained network is kept.
    """
    drawn, real, true = _features(theta, draws, prior, cache)
    return _beside_floor("Fréchet distance", frechet(drawn, real), frechet(true, real))


def kernel_images(
    theta: np.ndarray, draws: np.ndarray, prior: np.ndarray, cache: Path | None = None
) -> Distance:
    """Kernel distance of features of draws and of images from the prior.

    Arguments:
        theta: shape (B, D). draws: shape (B, n, D). prior: real images, shape (m, D).
        cache: folder in which the trained network is kept.
    """
    drawn, real, true = _features(theta, draws, prior, cache)
    return _beside_floor(
        "Kernel distance", kernel_distance(drawn, real), kernel_distance(true, real)
    )


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of vectors, (n, k) and (m, k), squared.

    Raises:
        ValueError: fewer than two vectors in a set.
    """
    a, b = _pair(first, second)
    gap = a.mean(0) - b.mean(0)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    one, two = np.atleast_2d(one), np.atleast_2d(two)
    # The eigenvalues of C_1 C_2 are those of the symmetric R C_2 R with R = C_1^(1/2).
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(two) - 2 * cross)


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the unbiased MMD^2 of two sets of vectors with the kernel (x . y / k + 1)^3.

    Raises:
        ValueError: fewer than two vectors in a set.
    """
    a, b = _pair(first, second)
    within = []
    for values in (a, b):
        gram, n = _cubic(values, values), len(values)
        within.append((gram.sum() - np.trace(gram)) / (n * (n - 1)))
    return float(within[0] + within[1] - 2 * _cubic(a, b).mean())


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"two sets of vectors have shapes {a.shape} and {b.shape}; valid: (n, k) and (m, k), n, m >= 2"
        )
    return a, b


def _features(
    theta: np.ndarray, draws: np.ndarray, prior: np.ndarray, cache: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features of one draw for each test image, of the prior's images and of the true ones."""
    network = feature_network(prior, cache)
    real = network.features(prior)
    spread = real.std(0) + 1e-6  # every feature counts alike
    return network.features(draws[:, 0]) / spread, real / spread, network.features(theta) / spread


def _beside_floor(name: str, value: float, floor: float) -> Distance:
    words = (
        f"{name} of one draw for each test image to images from the prior, in features of a network "
        f"trained on these. The true images have {floor:.4g}"
    )
    return Distance(words, value, float("nan"), floor, value - floor)
