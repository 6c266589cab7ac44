"""A prior in closed form: a mixture of isotropic normal distributions, and images smoothed by one.

    p(u) = sum_k pi_k N(u; mu_k, v_k I)
    D(u, sigma) = sum_k w_k (v_k u + sigma^2 mu_k) / (v_k + sigma^2)
    w_k prop. to pi_k N(u; mu_k, (v_k + sigma^2) I)

The empirical distribution of n images, smoothed by a normal distribution of standard deviation s, is the mixture
with mu_k the images, pi_k = 1 / n and v_k = s^2. Its denoiser is exact, and so is its score. The end of the
probability flow has no formula; it is computed by `steps` passes of the exact denoiser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.inverse.flow import flow_end


class GaussianMixture:
    """A mixture of K isotropic normal distributions of D parameters, as a prior.

    Arguments:
        means: mu, shape (K, D).
        variances: v, shape (K,), or one number for all.
        weights: pi, shape (K,), positive; None: all equal.
        steps: passes of the exact denoiser for the end of the flow.
        sigma_max: the largest noise; None: 20 times the largest standard deviation along a line.

    Raises:
        ValueError: shapes that disagree, or numbers that are not positive.
    """

    def __init__(
        self,
        means: Tensor,
        variances: Tensor | float,
        weights: Tensor | None = None,
        *,
        steps: int = 32,
        sigma_max: float | None = None,
    ) -> None:
        if means.ndim != 2 or not means.numel():
            raise ValueError(f"means have shape {tuple(means.shape)}; valid is (K, D), not empty")
        self.means, count = means.float(), len(means)
        self.variances = torch.as_tensor(variances, dtype=torch.float32).expand(count).contiguous()
        given = torch.ones(count) if weights is None else torch.as_tensor(weights).float()
        if given.shape != (count,) or not (given > 0).all():
            raise ValueError(
                f"weights have shape {tuple(given.shape)}; valid is ({count},), all > 0"
            )
        if not (self.variances > 0).all():
            raise ValueError(f"variances hold {float(self.variances.min()):g}; valid is > 0")
        self.log_weights = (given / given.sum()).log()
        self.size, self.steps = means.shape[1], steps
        self.row_memory = 4 * count + 4 * self.size
        self.shift, self.scale = torch.zeros(()), torch.ones(())
        self.low, self.high = torch.tensor(-torch.inf), torch.tensor(torch.inf)
        self.squares = self.means.square().sum(1)
        self.sigma_min = 0.05 * float(self.variances.min().sqrt())
        self.sigma_max = 20 * self._spread() if sigma_max is None else float(sigma_max)

    @classmethod
    def of_images(cls, images: Tensor, smoothing: float, steps: int = 32) -> GaussianMixture:
        """Return the empirical distribution of images (n, D), smoothed by a standard deviation."""
        return cls(images, smoothing**2, steps=steps)

    def _spread(self) -> float:
        """Return the largest standard deviation of the mixture along a line."""
        weights = self.log_weights.exp()
        centred = (self.means - weights @ self.means) * weights.sqrt()[:, None]
        return math.sqrt(
            float(torch.linalg.matrix_norm(centred, 2)) ** 2 + float(self.variances.max())
        )

    @property
    def deviation(self) -> float:
        """The standard deviation of an element of u, root mean square over elements."""
        weights = self.log_weights.exp()
        centred = self.means - weights @ self.means
        between = float((weights[:, None] * centred.square()).sum()) / self.size
        return math.sqrt(between + float(weights @ self.variances))

    def log_responsibilities(self, u: Tensor, sigma: float) -> Tensor:
        """Return log w_k, up to a constant of the row, shape (rows, K)."""
        variance = self.variances + sigma**2
        distance = u.square().sum(1, keepdim=True) + self.squares - 2 * u @ self.means.T
        return self.log_weights - 0.5 * (distance / variance + self.size * variance.log())

    def denoise(self, u: Tensor, sigma: float) -> Tensor:
        """Return D(u, sigma), shape (rows, D)."""
        shares = self.log_responsibilities(u, sigma).softmax(1)
        keep = self.variances / (self.variances + sigma**2)
        return (shares @ keep)[:, None] * u + (shares * (1 - keep)) @ self.means

    def consistency(self, u: Tensor, sigma: float) -> Tensor:
        """Return the end of the probability flow from u, shape (rows, D)."""
        return flow_end(self.denoise, u, sigma, self.sigma_min, self.steps)

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log p(u), shape (rows,)."""
        constant = 0.5 * self.size * math.log(2 * math.pi)
        return self.log_responsibilities(u, 0.0).logsumexp(1) - constant

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return draws (n, D)."""
        chosen = torch.multinomial(self.log_weights.exp(), n, True, generator=generator)
        noise = torch.randn(n, self.size, generator=generator)
        return self.means[chosen] + self.variances[chosen].sqrt()[:, None] * noise
