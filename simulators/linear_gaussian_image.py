"""A linear-Gaussian image: the posterior of many parameters in closed form.

An image theta of N x N pixels has independent coefficients w = F theta in the orthonormal cosine basis F; a
camera blurs it and adds noise:

    w_k ~ N(0, s_k^2),   s_k^2 = c (1 + |k|^2 / k_0^2)^-2,   c such that the mean variance of a pixel is 1
    x = F^T (h * w) + sigma n,   n ~ N(0, I),   h_k = exp(-(pi b |k| / N)^2 / 2)

with frequencies k = (i, j), 0 <= i, j < N: h is a Gaussian blur of standard deviation b pixels with reflected
edges. Coefficients stay independent given x:

    w_k | x ~ N(v_k h_k (F x)_k / sigma^2, v_k),   v_k = 1 / (1 / s_k^2 + h_k^2 / sigma^2)

so that mean, covariance spectrum and exact draws cost D log D.

Rasmussen, Williams: Gaussian Processes for Machine Learning (2006), chapter 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy.fft import dctn, idctn

from simulators.distribution import LOG_SQRT_2PI, Array
from simulators.factory import simulator
from simulators.prior import Prior
from simulators.simulator import Observation

CUTOFF = 3.0  # k_0


@simulator(batched=True)
class linear_gaussian_image:  # noqa: N801 - the simulator's name
    """A smooth random image behind a camera with blur and noise.

    Arguments:
        size: N, the height and width of the image; D = N^2 parameters.
        blur: b, standard deviation of the blur in pixels.
        noise: sigma, standard deviation of the noise; a pixel of the image has 1.
    """

    def __init__(self, size: int = 28, blur: float = 2.0, noise: float = 0.1) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or not 2 <= size <= 256:
            raise ValueError(
                f"linear_gaussian_image: size must be a whole number from 2 to 256, got {size!r}"
            )
        for name, value, least in (("blur", blur, 0.0), ("noise", noise, 1e-6)):
            if not (isinstance(value, int | float) and least <= value < math.inf):
                raise ValueError(
                    f"linear_gaussian_image: {name} must be a number >= {least:g}, got {value!r}"
                )
        self.size, self.noise = size, float(noise)
        self.transfer = np.exp(-0.5 * (math.pi * blur / size) ** 2 * squared_frequencies(size))
        self.prior = SmoothImages(size)
        self.references = {"exact": self.exact}

    def simulate(self, theta: Array, rng: Generator) -> Array:
        images = theta.reshape(-1, self.size, self.size)
        blurred = from_cosines(self.transfer * to_cosines(images))
        return blurred + self.noise * rng.standard_normal(blurred.shape)

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Return mean (..., N, N) and variance (N, N) of the coefficients w given x (..., N, N)."""
        precision = 1 / self.prior.variance + np.square(self.transfer / self.noise)
        mean = self.transfer * to_cosines(x) / self.noise**2 / precision
        return mean, 1 / precision

    def exact(self, x: Observation, n: int, rng: Generator) -> Array:
        """Draw from theta | x, shape (n, D)."""
        mean, variance = self.posterior(x["x"])
        w = mean + np.sqrt(variance) * rng.standard_normal((n, self.size, self.size))
        return from_cosines(w).reshape(n, -1)

    def log_likelihood(self, theta: Array, x: Observation) -> Array:
        """Return log N(x; blurred theta, sigma^2 I), shape (n,)."""
        images = theta.reshape(-1, self.size, self.size)
        z = (x["x"] - from_cosines(self.transfer * to_cosines(images))) / self.noise
        log_scale = self.size**2 * (LOG_SQRT_2PI + math.log(self.noise))
        return np.asarray(-0.5 * np.square(z).sum((1, 2)) - log_scale)


class SmoothImages(Prior):
    """Images whose cosine coefficients are independent and fall with their frequency.

    Arguments:
        size: N.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.names = tuple(f"pixel_{i}_{j}" for i in range(size) for j in range(size))
        self.low, self.high = np.full(size**2, -np.inf), np.full(size**2, np.inf)
        spectrum = (1 + squared_frequencies(size) / CUTOFF**2) ** -2.0
        self.variance = spectrum / spectrum.mean()  # s^2, shape (N, N)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size, self.size

    def sample(self, rng: Generator, n: int) -> Array:
        w = np.sqrt(self.variance) * rng.standard_normal((n, self.size, self.size))
        return from_cosines(w).reshape(n, -1)

    def log_prob(self, theta: ArrayLike) -> Array:
        images = self._rows(theta).reshape(-1, self.size, self.size)
        z = np.square(to_cosines(images)) / self.variance
        log_scale = 0.5 * np.log(self.variance).sum() + self.size**2 * LOG_SQRT_2PI
        return np.asarray(-0.5 * z.sum((1, 2)) - log_scale)

    def spec(self) -> dict[str, Any]:
        return {"name": "smooth_images", "size": self.size}


def squared_frequencies(size: int) -> Array:
    """Return |k|^2 = i^2 + j^2, shape (N, N)."""
    k = np.arange(size, dtype=float) ** 2
    return np.asarray(k[:, None] + k)


def to_cosines(images: Array) -> Array:
    """Return w = F theta of images (..., N, N)."""
    return np.asarray(dctn(images, axes=(-2, -1), norm="ortho"))


def from_cosines(w: Array) -> Array:
    """Return the images F^T w of coefficients (..., N, N)."""
    return np.asarray(idctn(w, axes=(-2, -1), norm="ortho"))
