"""Linear operators on images, and any matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from estimators.inverse.noise_model import Gaussian
from estimators.inverse.operators import Operator

SIDE = 28


def identity(sigma: float = 0.5) -> Operator:
    """Return y = theta + noise."""
    return Operator(lambda theta: theta, Gaussian(sigma), name="identity", linear=True)


def matrix(A: Tensor, sigma: float) -> Operator:
    """Return y = A theta + noise, for A of shape (m, D)."""
    return Operator(
        lambda theta: theta @ A.T.to(theta), Gaussian(sigma), name="matrix", linear=True
    )


def downsample(factor: int = 4, sigma: float = 0.1, side: int = SIDE) -> Operator:
    """Return images at 1 / factor of their resolution, by anti-aliased bilinear interpolation.

    Arguments:
        factor: a divisor of the side. sigma: of the noise. side: height and width of the images.

    Raises:
        ValueError: the factor does not divide the side.
    """
    if factor < 1 or side % factor:
        raise ValueError(f"downsample: factor={factor} does not divide the side {side}")

    def function(theta: Tensor) -> Tensor:
        size = (side // factor, side // factor)
        return F.interpolate(_images(theta, side), size, mode="bilinear", antialias=True)[:, 0]

    return Operator(function, Gaussian(sigma), name="downsample", linear=True)


def blur(width: float = 2.0, sigma: float = 0.1, side: int = SIDE) -> Operator:
    """Return images after a Gaussian blur of standard deviation `width` pixels with reflected edges."""
    if not width > 0:
        raise ValueError(f"blur: width={width!r}; valid is > 0")
    radius = min(math.ceil(3 * width), side - 1)
    place = torch.arange(-radius, radius + 1.0)
    kernel = torch.exp(-0.5 * (place / width).square())
    kernel = kernel / kernel.sum()

    def function(theta: Tensor) -> Tensor:
        images = F.pad(_images(theta, side), (radius,) * 4, mode="reflect")
        weights = kernel.to(theta)
        images = F.conv2d(images, weights.view(1, 1, -1, 1))
        return F.conv2d(images, weights.view(1, 1, 1, -1))[:, 0]

    return Operator(function, Gaussian(sigma), name="blur", linear=True)


def inpaint(share: float = 0.25, sigma: float = 0.1, side: int = SIDE, seed: int = 0) -> Operator:
    """Return the pixels that a random mask leaves, shape (rows, k).

    Arguments:
        share: of the pixels that are seen. sigma: of the noise. seed: of the mask.
    """
    if not 0 < share <= 1:
        raise ValueError(f"inpaint: share={share!r}; valid is above 0 and at most 1")
    count = max(1, round(share * side**2))
    order = torch.randperm(side**2, generator=torch.Generator().manual_seed(seed))
    seen = order[:count].sort().values
    return Operator(
        lambda theta: theta.index_select(1, seen.to(theta.device)),
        Gaussian(sigma),
        name="inpaint",
        linear=True,
    )


def _images(theta: Tensor, side: int) -> Tensor:
    if theta.shape[1] != side**2:
        raise ValueError(f"{theta.shape[1]} parameters are no image of {side} x {side} pixels")
    return theta.view(-1, 1, side, side)
