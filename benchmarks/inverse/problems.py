"""Inverse problems whose posterior is known exactly: a prior, an operator, measurements and exact draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

import simulators
from benchmarks.fit import TrainingSettings, fit
from estimators.inverse import EstimatorPrior, ExactPosterior, GaussianMixture, Operator
from estimators.inverse.linear import blur, downsample, inpaint, matrix
from simulators.data_prior import TRAIN, DataPrior

IMAGES, SMOOTHING = 500, 0.2  # of the empirical prior
FLOW_STEPS = 16  # of its consistency function
COMPONENTS = {2: 8, 10: 30}  # of the mixtures, by D
MEASURED = {2: 1, 10: 3}  # numbers in y
SPREAD, WIDTH, NOISE = 2.0, 0.3, 0.3  # of the means; of a component; of y
TRAINING_ROWS = 10_000  # draws of a mixture that a prior is learned from
TRAINING = TrainingSettings(
    "cmpe_distilled",
    {"width": 128, "depth": 3, "members": 1, "T": 40.0, "p_mean": -1.0, "epsilon": 0.005},
    steps=6000,
    batch=128,
)
PROJECTIONS = 5  # principal components on which images are compared by C2ST


@dataclass(frozen=True)
class Problem:
    """Measurements of one operator with the exact posterior of each.

    Attributes:
        prior, operator: p(theta) and p(y | theta).
        theta: what was measured, (B, D). y: (B, ...).
        posteriors: one for each measurement.
        axes: on which C2ST compares, (D, k); None: on all parameters.
        learned: a prior that was trained on draws, for the methods in place of the exact one.
    """

    prior: GaussianMixture
    operator: Operator
    theta: Tensor
    y: Tensor
    posteriors: list[ExactPosterior]
    axes: Tensor | None = None
    learned: EstimatorPrior | None = None

    def exact(self, n: int, seed: int) -> Tensor:
        """Return exact draws (B, n, D)."""
        return torch.stack([p.sample(n, 1000 * seed + b) for b, p in enumerate(self.posteriors)])


def measured(
    prior: GaussianMixture, operator: Operator, count: int, seed: int, axes: Tensor | None = None
) -> Problem:
    """Return a problem of `count` measurements of draws of the prior."""
    theta = prior.sample(count, torch.Generator().manual_seed(seed))
    y = operator(theta, seed)
    posteriors = [ExactPosterior(prior, operator, one) for one in y]
    return Problem(prior, operator, theta, y, posteriors, axes)


def mixture(size: int, seed: int, count: int) -> Problem:
    """Return a random Gaussian mixture in D = size dimensions behind a random matrix."""
    generator = torch.Generator().manual_seed(seed)
    means = SPREAD * torch.randn(COMPONENTS[size], size, generator=generator)
    A = torch.randn(MEASURED[size], size, generator=generator) / size**0.5
    return measured(GaussianMixture(means, WIDTH**2), matrix(A, NOISE), count, seed + 1)


def learned(size: int, seed: int, count: int) -> Problem:
    """Return the same problem with a prior that was trained on draws."""
    problem = mixture(size, seed, count)
    return replace(problem, learned=_trained(size, seed))


@lru_cache(maxsize=8)
def _trained(size: int, seed: int) -> EstimatorPrior:
    prior = mixture(size, seed, 1).prior
    theta = prior.sample(TRAINING_ROWS, torch.Generator().manual_seed(seed + 2)).double().numpy()
    posterior, _ = fit(TRAINING, DataPrior(theta), theta, {}, seed)
    return EstimatorPrior(posterior)


@lru_cache(maxsize=1)
def fashion_images(count: int = IMAGES) -> Tensor:
    """Return the first training images in [-1, 1], (count, 784)."""
    prior = simulators.load("fashion_images").prior
    assert isinstance(prior, DataPrior)
    return torch.as_tensor(prior.rows(TRAIN, np.arange(count)), dtype=torch.float32)


@lru_cache(maxsize=1)
def fashion_prior() -> tuple[GaussianMixture, Tensor]:
    """Return the smoothed empirical prior of images, and its first principal axes (784, k)."""
    images = fashion_images()
    _, _, axes = torch.linalg.svd(images - images.mean(0), full_matrices=False)
    prior = GaussianMixture.of_images(images, SMOOTHING, steps=FLOW_STEPS)
    return prior, axes[:PROJECTIONS].T


OPERATORS: dict[str, Callable[[], Operator]] = {
    "downsample": lambda: downsample(4, 0.5),
    "blur": lambda: blur(3.0, 1.5),
    "inpaint": lambda: inpaint(0.05, 0.5),
}


def fashion(operator: str, seed: int, count: int) -> Problem:
    """Return images behind a linear operator, with the empirical prior."""
    prior, axes = fashion_prior()
    return measured(prior, OPERATORS[operator](), count, seed + 1, axes)


CASES: dict[str, Callable[[int, int], Problem]] = {
    "mixture_2": lambda seed, count: mixture(2, seed, count),
    "mixture_10": lambda seed, count: mixture(10, seed, count),
    "mixture_2_learned": lambda seed, count: learned(2, seed, count),
    "mixture_10_learned": lambda seed, count: learned(10, seed, count),
    "fashion_downsample": lambda seed, count: fashion("downsample", seed, count),
    "fashion_blur": lambda seed, count: fashion("blur", seed, count),
    "fashion_inpaint": lambda seed, count: fashion("inpaint", seed, count),
}
