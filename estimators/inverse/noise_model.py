"""Noise models: how a measurement y comes from f = A(theta), and how far f is from a y.

`log_prob` is the likelihood, which calibrated methods need. `distance` is what guided methods descend, as their
papers do: its size does not depend on the number of measurements or on the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class NoiseModel(Protocol):
    """p(y | f)."""

    @property
    def agreement_name(self) -> str:
        """What `agreement` measures."""
        ...

    def shape(self, f: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one y for the shape of one f."""
        ...

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        """Return log p(y | f), up to a constant, shape (rows,)."""
        ...

    def distance(self, y: Tensor, f: Tensor) -> Tensor:
        """Return a distance of f from y, shape (rows,)."""
        ...

    def agreement(self, y: Tensor, f: Tensor) -> Tensor:
        """Return how well f agrees with y, as `agreement_name` says, shape (rows,)."""
        ...

    def sample(self, f: Tensor, generator: torch.Generator) -> Tensor:
        """Return one y for each row of f."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """y = f + sigma n, n ~ N(0, I); the distance is |y - f|.

    Attributes:
        sigma: standard deviation.
    """

    sigma: float
    agreement_name = "misfit"  # root mean square of (y - f) / sigma: about 1 for the truth

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma = {self.sigma!r} of the noise; valid is a number > 0")

    def shape(self, f: tuple[int, ...]) -> tuple[int, ...]:
        return f

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        return -0.5 * ((y - f) / self.sigma).square().flatten(1).sum(1)

    def distance(self, y: Tensor, f: Tensor) -> Tensor:
        return ((y - f).square().flatten(1).sum(1) + 1e-12).sqrt()

    def agreement(self, y: Tensor, f: Tensor) -> Tensor:
        return ((y - f) / self.sigma).square().flatten(1).mean(1).sqrt()

    def sample(self, f: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(f.shape, generator=generator, dtype=f.dtype).to(f.device)
        return f + self.sigma * noise


@dataclass(frozen=True)
class CategoricalNoise:
    """y is a class, or one for each place: f (rows, K, ...) are logits of K classes.

    log p(y | f) = -sum of cross entropies,   distance = their mean
    """

    agreement_name = "accuracy"  # share of places whose most likely class is y

    def shape(self, f: tuple[int, ...]) -> tuple[int, ...]:
        return f[1:]

    def _entropies(self, y: Tensor, f: Tensor) -> Tensor:
        return F.cross_entropy(f, y.long(), reduction="none").flatten(1 if f.ndim > 2 else 0)

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        entropies = self._entropies(y, f)
        return -(entropies.sum(1) if entropies.ndim > 1 else entropies)

    def distance(self, y: Tensor, f: Tensor) -> Tensor:
        entropies = self._entropies(y, f)
        return entropies.mean(1) if entropies.ndim > 1 else entropies

    def agreement(self, y: Tensor, f: Tensor) -> Tensor:
        return (f.argmax(1) == y).float().reshape(len(f), -1).mean(1)

    def sample(self, f: Tensor, generator: torch.Generator) -> Tensor:
        """Return the most likely classes: a label has no further noise."""
        return f.argmax(1)


@dataclass(frozen=True)
class Directional:
    """y is a direction, |y| = 1: log p(y | f) = kappa cos(y, f), distance = 1 - cos(y, f).

    Attributes:
        kappa: concentration.
    """

    kappa: float = 50.0
    agreement_name = "cosine"  # of the angle between y and f

    def shape(self, f: tuple[int, ...]) -> tuple[int, ...]:
        return f

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        return self.kappa * F.cosine_similarity(y, f, dim=1)

    def distance(self, y: Tensor, f: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(y, f, dim=1)

    def agreement(self, y: Tensor, f: Tensor) -> Tensor:
        return F.cosine_similarity(y, f, dim=1)

    def sample(self, f: Tensor, generator: torch.Generator) -> Tensor:
        """Return f's direction: an embedding has no further noise."""
        return F.normalize(f, dim=1)
