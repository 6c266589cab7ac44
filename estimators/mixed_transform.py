"""The map theta -> u where parameters are whole numbers or categories, or shares that add up to one.

A whole number or a category becomes its place u = theta - low among the values, and density means probability
there. Of shares p_1, ..., p_K the stick-breaking fractions

    r_k = p_k / (1 - p_1 - ... - p_(k-1)),    k = 1, ..., K - 1

lie in (0, 1) and are treated as parameters with these bounds; p_K is what is left, and has no latent coordinate.
A density of shares is one of the first K - 1 of them. All other parameters go through `estimators.transform`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from estimators.transform import ParameterTransform, Standardizer, parameter_transform

if TYPE_CHECKING:
    from estimators.problem import InferenceProblem

TINY = 1e-7
TOLERANCE = 1e-4  # of the sum of shares, as float32


class MixedTransform(nn.Module):
    """The map theta -> u of the parameters, see the module's text.

    Arguments:
        problem: names, bounds, kinds and simplexes.
        bounds: treatment of the bounds of continuous parameters, see `estimators.transform`.
        log: which parameters have the scale "log", bool (D,).
    """

    def __init__(self, problem: InferenceProblem, bounds: str, log: Tensor) -> None:
        super().__init__()
        last = {group[-1] for group in problem.simplexes}
        self.simplexes, self.size = problem.simplexes, problem.size
        kept = [j for j in range(problem.size) if j not in last]
        discrete = set(problem.discrete)
        self.kept = kept
        self.discrete = [k for k, j in enumerate(kept) if j in discrete]  # latent coordinates
        self.continuous = [k for k, j in enumerate(kept) if j not in discrete]
        low, high = (torch.tensor(b, dtype=torch.float64) for b in (problem.low, problem.high))
        columns = [kept[k] for k in self.discrete]
        self.first = low[columns].float().tolist()
        self.counts = [round(float(high[j] - low[j])) + 1 for j in columns]
        inner = [kept[k] for k in self.continuous]
        self.inner: ParameterTransform = parameter_transform(
            bounds, low[inner], high[inner], log[inner]
        )

    @property
    def bijective(self) -> bool:
        """Whether there is a density."""
        return self.inner.bijective

    @property
    def standard(self) -> Standardizer:
        """The standardisation of the continuous parameters."""
        return self.inner.standard

    @property
    def low(self) -> Tensor:
        """The lower bounds of the continuous parameters."""
        return self.inner.low

    def fit(self, theta: Tensor) -> None:
        """Standardise by training parameters of shape (n, D)."""
        if self.continuous:
            self.inner.fit(self._broken(theta)[..., self.continuous])

    def forward(self, theta: Tensor) -> Tensor:
        """Return u of shape (..., D - S) for S simplexes."""
        w = self._broken(theta)
        u = w.clone()
        u[..., self.continuous] = self.inner(w[..., self.continuous])
        u[..., self.discrete] = w[..., self.discrete] - w.new_tensor(self.first)
        return u

    def inverse(self, u: Tensor) -> Tensor:
        """Return theta of shape (..., D): whole numbers, and shares that add up to one."""
        w = u.clone()
        w[..., self.continuous] = self.inner.inverse(u[..., self.continuous])
        most = u.new_tensor([count - 1.0 for count in self.counts])
        place = torch.minimum(u[..., self.discrete].round().clamp_min(0), most)
        w[..., self.discrete] = place + u.new_tensor(self.first)
        theta = u.new_zeros(*u.shape[:-1], self.size)
        theta[..., self.kept] = w
        for group in self.simplexes:
            left = torch.ones_like(theta[..., group[0]])
            for j in group[:-1]:
                theta[..., j] = theta[..., j] * left
                left = left - theta[..., j]
            theta[..., group[-1]] = left.clamp_min(0)
        return theta

    def contains(self, theta: Tensor) -> Tensor:
        """Return whether theta (..., D) lies within the bounds, is whole and adds up to one, shape (...)."""
        w = self._broken(theta)
        inside = self.inner.contains(w[..., self.continuous])
        place = w[..., self.discrete] - w.new_tensor(self.first)
        most = w.new_tensor([count - 1.0 for count in self.counts])
        whole = (place == place.round()) & (place >= 0) & (place <= most)
        inside = inside & whole.all(-1)
        for group in self.simplexes:
            shares = theta[..., list(group)]
            inside = inside & ((shares.sum(-1) - 1).abs() < TOLERANCE) & (shares >= 0).all(-1)
        return inside

    def log_abs_det(self, theta: Tensor) -> Tensor:
        """Return log |det du/dtheta| of the continuous coordinates, shape (...)."""
        slope = self.inner.log_abs_det(self._broken(theta)[..., self.continuous])
        for group in self.simplexes:
            slope = slope - self._left(theta, group).log().sum(-1)
        return slope

    def _left(self, theta: Tensor, group: tuple[int, ...]) -> Tensor:
        """Return what is left before each share but the last, shape (..., K - 1)."""
        shares = theta[..., list(group[:-1])]
        return (1 - shares.cumsum(-1) + shares).clamp_min(TINY)

    def _broken(self, theta: Tensor) -> Tensor:
        """Return theta with stick-breaking fractions in the place of shares, without the last ones."""
        if not self.simplexes:
            return theta[..., self.kept]
        w = theta.clone()
        for group in self.simplexes:
            first = list(group[:-1])
            w[..., first] = (theta[..., first] / self._left(theta, group)).clamp(0, 1)
        return w[..., self.kept]
