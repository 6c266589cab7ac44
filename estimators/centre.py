"""A regression of the parameters on the summary of x, by which an estimator's latent is centred.

A network need not learn what a regression finds in closed form. With the summary c of x and the
standardised parameters u,

    v = L^-1 (u - m(c)),   m(c) = W phi(c) + b,   L L^T = covariance of u - m(c)

is what the estimator learns and draws, and u = m(c) + L v. Where u | x is normal with a linear mean, v is
standard normal for every x, and nothing is left to learn. Where it is not, v | x is another distribution
of about unit scale: the map is one-to-one for each x, so nothing is lost.

The features phi are c, or c with all its squares and products. Ridge regression on each, with the penalty
of the smallest leave-one-out error, gives residuals e_i / (1 - h_ii) of rows left out; the features with
the smaller det of their covariance S are taken. Where (det S)^(1/D) stays above 0.6 of that of u alone, the
regression explains little, and v = u.

Hoerl, Kennard: Ridge Regression: Biased Estimation for Nonorthogonal Problems (1970). Allen: The
Relationship between Variable Selection and Data Augmentation and a Method for Prediction (1974).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PENALTIES = torch.logspace(-6, 1, 15, dtype=torch.float64)  # in units of the rows
MOST_FEATURES = 512  # more products of outputs are not tried
EXPLAINED = 0.6  # (det S)^(1/D) of the parameters given x, from which on nothing is centred
MOST_ROWS = 16_384  # of training; more hardly change a regression


class Centre(nn.Module):
    """The map u -> v and back, for each summary of x.

    Arguments:
        width: C, size of the summary.
        size: D, number of parameters.
    """

    weight: Tensor  # (F, D) for all features; zero for those that are not taken
    bias: Tensor  # (D,)
    root: Tensor  # (D, D), L
    low: Tensor  # (C,) range of the summary in training
    high: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.products = width + width * (width + 1) // 2 <= MOST_FEATURES
        features = width + (width * (width + 1) // 2 if self.products else 0)
        self.register_buffer("weight", torch.zeros(features, size))
        self.register_buffer("bias", torch.zeros(size))
        self.register_buffer("root", torch.eye(size))
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("high", torch.zeros(width))

    def fit(self, u: Tensor, context: Tensor) -> None:
        """Regress u (n, D) on the summary (n, C) of training rows."""
        u, context = u[:MOST_ROWS], context[:MOST_ROWS]
        low, high = context.aminmax(dim=0)
        self.low.copy_(low)
        self.high.copy_(high)
        features, target = self._features(context).double(), u.double()
        widths = {context.shape[1], features.shape[1]}
        found = [_ridge(features[:, :count], target) for count in sorted(widths)]
        weight, bias, covariance = min(found, key=lambda fit: float(fit[2].logdet()))
        explained = covariance.logdet() - _ridge(features[:, :0], target)[2].logdet()
        self.weight.zero_()
        self.bias.zero_()
        self.root.copy_(torch.eye(len(self.root)))
        if explained < len(bias) * math.log(EXPLAINED):
            self.weight[: len(weight)] = weight
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
        return self._features(context) @ self.weight + self.bias

    def _features(self, context: Tensor) -> Tensor:
        context = torch.minimum(torch.maximum(context, self.low), self.high)
        if not self.products:
            return context
        rows, columns = torch.triu_indices(*2 * [context.shape[1]], device=context.device)
        return torch.cat([context, context[:, rows] * context[:, columns]], dim=1)


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
