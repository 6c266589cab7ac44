"""A regression of the parameters on the summary of x, by which an estimator's latent is centred.

A network need not learn what a regression finds in closed form. With the summary c of x and the
standardised parameters u,

    v = L^-1 (u - m(c)),   m(c) = W c + b,   L L^T = covariance of u - m(c)

is what the estimator learns and draws, and u = m(c) + L v. Where u | x is normal with a linear mean, v is
standard normal for every x, and nothing is left to learn. Where it is not, v | x is another distribution
of about unit scale: the map is one-to-one for each x, so nothing is lost.

W and b come from ridge regression with the penalty of the smallest leave-one-out error; the residuals are
those of rows left out, e_i / (1 - h_ii), with covariance S. Nothing is centred, v = u, where

- (det S)^(1/D) stays above 0.6 of that of u alone: the regression explains little;
- squares and products of c beside c give a smaller det S: the mean is not linear, and then the spread
  about it mostly depends on x too, which made posteriors worse (`docs/experiments/defaults.md`);
- there are fewer than ten rows for each parameter.

Hoerl, Kennard: Ridge Regression: Biased Estimation for Nonorthogonal Problems (1970). Allen: The
Relationship between Variable Selection and Data Augmentation and a Method for Prediction (1974).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PENALTIES = torch.logspace(-6, 1, 15, dtype=torch.float64)  # in units of the rows
MOST_FEATURES = 512  # with more products of the summary they are not tried
ROWS_EACH = 10  # rows for each parameter; with fewer their covariance is not known
EXPLAINED = 0.6  # (det S)^(1/D) of the parameters given x, from which on nothing is centred
MOST_ROWS = 16_384  # of training; more hardly change a regression


class Centre(nn.Module):
    """The map u -> v and back, for each summary of x.

    Arguments:
        width: C, size of the summary.
        size: D, number of parameters.
    """

    weight: Tensor  # (C, D)
    bias: Tensor  # (D,)
    root: Tensor  # (D, D), L
    low: Tensor  # (C,) range of the summary in training
    high: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(width, size))
        self.register_buffer("bias", torch.zeros(size))
        self.register_buffer("root", torch.eye(size))
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("high", torch.zeros(width))

    def fit(self, u: Tensor, context: Tensor) -> None:
        """Regress u (n, D) on the summary (n, C) of training rows."""
        target, features = u[:MOST_ROWS].double(), context[:MOST_ROWS].double()
        low, high = context[:MOST_ROWS].aminmax(dim=0)
        self.low.copy_(low)
        self.high.copy_(high)
        weight, bias, covariance = _ridge(features, target)
        if not _worth(features, target, covariance):
            weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
            covariance = torch.eye(len(bias))
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.root.copy_(torch.linalg.cholesky(covariance))

    def forward(self, u: Tensor, context: Tensor) -> Tensor:
        """Return v, shape (rows, D)."""
        left = (u - self.mean(context)).T
        return torch.linalg.solve_triangular(self.root, left, upper=False).T

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """Return u, shape (rows, D)."""
        return self.mean(context) + v @ self.root.T

    def mean(self, context: Tensor) -> Tensor:
        """Return m(c), shape (rows, D); beyond the range in training c is taken at its edge."""
        return torch.clamp(context, self.low, self.high) @ self.weight + self.bias


def _worth(features: Tensor, target: Tensor, covariance: Tensor) -> bool:
    """Return whether the regression explains enough, and is linear, see the module's text."""
    rows, size = target.shape
    if rows < ROWS_EACH * size:
        return False
    alone = _ridge(features[:, :0], target)[2].logdet()
    if covariance.logdet() - alone > size * math.log(EXPLAINED):
        return False
    first, second = torch.triu_indices(*2 * [features.shape[1]])
    if features.shape[1] + len(first) > MOST_FEATURES:
        return True
    products = torch.cat([features, features[:, first] * features[:, second]], dim=1)
    return bool(covariance.logdet() <= _ridge(products, target)[2].logdet())


def _ridge(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights (F, D), the bias (D,) and the covariance (D, D) of rows left out."""
    rows, middle, mean = len(target), features.mean(0), target.mean(0)
    left, weight = target - mean, features.new_zeros(features.shape[1], target.shape[1])
    share = torch.full((rows, 1), 1 / rows, dtype=torch.float64)
    if features.shape[1]:
        spread = features.std(0, correction=0).clamp_min(1e-9)
        scaled = (features - middle) / spread
        values, vectors = torch.linalg.eigh(scaled.T @ scaled)
        turned, values = scaled @ vectors, values.clamp_min(0)
        fits = []
        for penalty in PENALTIES * rows:
            solved = turned.T @ left / (values + penalty)[:, None]
            part = share + (turned.square() / (values + penalty)).sum(1, keepdim=True)
            out = (left - turned @ solved) / (1 - part).clamp_min(1e-3)
            fits.append((float(out.square().sum()), vectors @ solved / spread[:, None], out))
        _, weight, left = min(fits, key=lambda fit: fit[0])
    else:
        left = left / (1 - share)
    covariance = left.T @ left / rows
    ridge = 1e-6 * covariance.diagonal().mean() + 1e-12
    return weight, mean - middle @ weight, covariance + ridge * torch.eye(len(mean))
