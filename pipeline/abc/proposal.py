"""The density by which ABC proposes the parameters of a generation, and its weights under the prior.

    q_t(theta) = [a p(theta) + (1 - a) sum_i w_i N(z(theta); z_i, C) / prod_j theta_j] / c   on the prior's support

z are pyABC's coordinates, theta_j the parameters on a log scale among them. The particles z_i with weights w_i are
those of the generation before, with a = 0, or draws of a trained posterior, with a = `PRIOR_SHARE`. C is the
covariance of pyABC's normal kernel, and c the share that lies on the support, since pyABC draws again what is
outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyabc
from pyabc.acceptor import AcceptorResult
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pipeline.abc.model import AbcPrior
from pipeline.files import read_arrays

FIRST = "proposal.npz"  # posterior draws from which the first generation is proposed
PRIOR_SHARE = 0.1  # of the prior in a proposal of posterior draws, so that weights are at most 10
CANDIDATES = 100_000  # that decide c: its relative error is below 0.4 % where c is above 0.5
ENTRIES = 1 << 20  # of the table of differences that is computed at a time


@dataclass(frozen=True)
class Proposal:
    """A mixture of normal kernels and the prior.

    Arguments:
        prior: of pyABC, with coordinates.
        centres: z_i, shape (m, D).
        weight: w_i of sum 1, shape (m,).
        prior_share: a.
    """

    prior: AbcPrior
    centres: np.ndarray
    weight: np.ndarray
    prior_share: float = 0.0

    @classmethod
    def of_draws(cls, prior: AbcPrior, theta: np.ndarray) -> Proposal:
        """Return the proposal of posterior draws (m, D) in natural units that the prior allows."""
        z = prior.coordinates.z(theta[np.isfinite(prior.prior.log_prob(theta))])
        return cls(prior, z, np.full(len(z), 1 / len(z)), PRIOR_SHARE)

    @cached_property
    def kernel(self) -> Any:
        """Kernel of pyABC around the particles."""
        kernel = pyabc.MultivariateNormalTransition()
        frame = pandas.DataFrame(self.centres, columns=list(self.prior.coordinates.labels))
        kernel.fit(frame, self.weight)
        return kernel

    @cached_property
    def inside(self) -> float:
        """c, by draws of the kernels; 1 where the prior has no bounds."""
        own = self.prior.prior
        if np.isinf(own.low).all() and np.isinf(own.high).all():
            return 1.0
        rng = np.random.default_rng(0)
        at = rng.choice(len(self.weight), CANDIDATES, p=self.weight)
        size = self.centres.shape[1]
        moved = self.centres[at] + rng.multivariate_normal(
            np.zeros(size), self.kernel.cov, CANDIDATES
        )
        share = float(np.isfinite(self.prior.log_prob(moved)).mean())
        return self.prior_share + (1 - self.prior_share) * share

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Return log q of z (n, D) in pyABC's coordinates, shape (n,); -inf where the prior has none."""
        normal = multivariate_normal(cov=self.kernel.cov, allow_singular=True)
        size = max(1, ENTRIES // self.centres.size)
        found = [np.zeros(0)]
        for start in range(0, len(z), size):
            apart = z[start : start + size, None] - self.centres
            each = normal.logpdf(apart).reshape(apart.shape[:2])
            found.append(logsumexp(each, axis=1, b=self.weight))
        under_prior, share = self.prior.log_prob(z), self.prior_share
        both = np.concatenate(found)
        if share:
            both = np.logaddexp(np.log1p(-share) + both, np.log(share) + under_prior)
        return np.where(np.isfinite(under_prior), both - np.log(self.inside), -np.inf)

    def natural_log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Return log q of theta (n, D) in natural units, shape (n,)."""
        coordinates = self.prior.coordinates
        return self.log_prob(coordinates.z(theta)) - coordinates.log_jacobian(theta)

    def rvs(self) -> pyabc.Parameter:
        """Draw once, from numpy's global generator; may lie outside of the prior's support."""
        if np.random.random() < self.prior_share:
            return self.prior.rvs()
        at = np.random.choice(len(self.weight), p=self.weight)
        z = np.random.multivariate_normal(self.centres[at], self.kernel.cov)
        return pyabc.Parameter(dict(zip(self.prior.coordinates.labels, z.tolist(), strict=True)))


def read_first(folder: Path, prior: AbcPrior) -> Proposal | None:
    """Return what the first generation of an ABC run is drawn from; None: the prior."""
    try:
        return Proposal.of_draws(prior, read_arrays(folder / FIRST)["theta"])
    except FileNotFoundError:
        return None


class ProposedPrior(pyabc.DistributionBase):
    """A prior for pyABC whose draws are those of a proposal; see `ProposedAcceptor`."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal

    def rvs(self, *args: Any, **kwargs: Any) -> pyabc.Parameter:
        while self.pdf(drawn := self.proposal.rvs()) == 0:
            pass
        return drawn

    def pdf(self, x: Mapping[str, float]) -> float:
        return self.proposal.prior.pdf(x)


class ProposedAcceptor(pyabc.UniformAcceptor):
    """Accepts below epsilon; gives the draws of the first generation, which pyABC takes for the prior's, p / q."""

    def __init__(self, proposal: Proposal) -> None:
        super().__init__()
        self.proposal = proposal

    def __call__(
        self, distance_function: Any, eps: Any, x: Any, x_0: Any, t: int, par: Any
    ) -> AcceptorResult:
        found = super().__call__(distance_function, eps, x, x_0, t, par)
        if t > 0 or not found.accept:
            return found
        z = np.array([[par[label] for label in self.proposal.prior.coordinates.labels]])
        ratio = self.proposal.prior.log_prob(z) - self.proposal.log_prob(z)
        return AcceptorResult(found.distance, found.accept, float(np.exp(ratio[0])))


def mixture_log_prob(
    proposals: Sequence[tuple[int, Proposal | None]], prior: AbcPrior, theta: np.ndarray
) -> np.ndarray:
    """Return the density of all rows taken together at theta (n, D) in natural units, shape (n,).

        log sum_g (n_g / N) q_g(theta)

    By these densities the rows of all generations are weighted together. A weight is at most N / n_0, where n_0
    rows are draws of the prior.

    Reference: Adaptive multiple importance sampling (Cornuet, Marin, Mira and Robert 2012, Scand. J. Stat. 39).

    Arguments:
        proposals: number of rows n_g and proposal of each part; None: the prior.
        prior: of pyABC.
        theta: of any rows.
    """
    rows = np.array([n for n, _ in proposals], float)
    each = [
        prior.prior.log_prob(theta) if proposal is None else proposal.natural_log_prob(theta)
        for _, proposal in proposals
    ]
    return np.asarray(logsumexp(np.stack(each), axis=0, b=(rows / rows.sum())[:, None]))
