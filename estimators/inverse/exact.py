"""The exact posterior of a Gaussian mixture prior, a linear operator and Gaussian noise.

    p(u | y) = sum_k w_k N(u; m_k, C_k),   w_k prop. to pi_k N(y; A mu_k, v_k A A^T + sigma^2 I)
    m_k = mu_k + K_k (y - A mu_k),   K_k = v_k A^T (v_k A A^T + sigma^2 I)^(-1),   C_k = v_k (I - K_k A)

All of it by the singular value decomposition of A. It is the truth against which methods are measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.inverse.mixture import GaussianMixture
from estimators.inverse.noise_model import Gaussian
from estimators.inverse.operators import Operator


class ExactPosterior:
    """p(u | y) of one measurement.

    Arguments:
        prior: the mixture.
        operator: linear, with Gaussian noise.
        y: one measurement.

    Raises:
        ValueError: the operator is not linear.
    """

    def __init__(self, prior: GaussianMixture, operator: Operator, y: Tensor) -> None:
        self.prior, self.parts = prior, operator.decomposition(prior.size)
        model = operator.noise_model
        assert isinstance(model, Gaussian)
        self.sigma = model.sigma
        v, s = prior.variances[:, None], self.parts.s
        self.total = v * s.square() + self.sigma**2  # variances of U^T y, (K, r)
        self.gain = v * s / self.total  # of K_k, between V and U
        self.seen = y.flatten() @ self.parts.u
        self.residual = self.seen - prior.means @ self.parts.v * s  # (K, r)
        fit = self.residual.square() / self.total + self.total.log()
        self.log_weights = (prior.log_weights - 0.5 * fit.sum(1)).log_softmax(0)

    @property
    def components(self) -> float:
        """The effective number of components, exp of the entropy of w."""
        weights = self.log_weights.exp()
        return float(torch.exp(-(weights * self.log_weights.clamp_min(-80)).sum()))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of every parameter, both (D,)."""
        weights = self.log_weights.exp()
        chosen = weights > 1e-9
        weights = weights[chosen] / weights[chosen].sum()
        means = self.prior.means[chosen] + (self.gain * self.residual)[chosen] @ self.parts.v.T
        lost = (self.prior.variances[:, None] * self.gain * self.parts.s)[chosen]
        within = self.prior.variances[chosen, None] - lost @ self.parts.v.square().T
        mean = weights @ means
        return mean, weights @ (within + means.square()) - mean.square()

    def sample(self, n: int, seed: int) -> Tensor:
        """Return draws (n, D), by moving draws of the prior to the measurement."""
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.log_weights.exp(), n, True, generator=generator)
        noise = torch.randn(n, self.prior.size, generator=generator)
        other = torch.randn(n, len(self.seen), generator=generator)
        u = self.prior.means[k] + self.prior.variances[k].sqrt()[:, None] * noise
        seen = u @ self.parts.v * self.parts.s + self.sigma * other
        return u + (self.gain[k] * (self.seen - seen)) @ self.parts.v.T
