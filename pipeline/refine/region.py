"""The region of parameter space that a round simulates: where the posterior so far has its mass.

    R_r = R_(r-1)  and  { theta in box_r : log q_r(theta | x_o) >= tau_r }

q_r is the posterior of the round before, or a flow fitted to its draws where it has no density; tau_r is the
quantile of log q_r at its own draws that leaves out a share `level`, and box_r holds the draws with a margin on
the scale of the prior's quantiles. In R_r the prior is simulated as it is, so rows of all rounds that lie in R_r
are draws of the prior there, and training on them needs no weights.

Reference: Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves and
Macke 2022, arXiv 2210.04815).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UsageError

DRAWS = 10_000  # that decide threshold and box
MARGIN = 0.1  # of the box, as a share of its width
CANDIDATES = 20_000  # drawn at a time
MOST_CANDIDATES = 20_000_000
ROWS = 20_000  # in one call of the density


@dataclass(frozen=True)
class Region:
    """Where one round's posterior has its mass.

    Attributes:
        posterior: with a density.
        x: the observations, each array (B, ...): the region is the union over them.
        threshold: tau for each observation, shape (B,).
        low, high: the box, shape (D,), natural units.
    """

    posterior: Any
    x: dict[str, np.ndarray]
    threshold: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(
        cls, posterior: Any, draws: np.ndarray, x: dict[str, np.ndarray], prior: Any, level: float
    ) -> Region:
        """Return the region of posterior draws (B, n, D); `posterior` has a density."""
        density = _log_prob(posterior, draws, x)
        flat = draws.reshape(-1, draws.shape[2])
        if prior.has_quantile:
            u = prior.cube(np.clip(flat, prior.low, prior.high))
            edges = _widened(u.min(axis=0), u.max(axis=0), 1e-9, 1 - 1e-9)
            low, high = prior.quantile(edges)
        else:
            low, high = _widened(flat.min(axis=0), flat.max(axis=0), prior.low, prior.high)
        return cls(posterior, x, np.quantile(density, level, axis=1), low, high)

    def contains(self, theta: np.ndarray) -> np.ndarray:
        """Return which parameters (n, D) lie inside, shape (n,)."""
        inside: np.ndarray = np.all((theta >= self.low) & (theta <= self.high), axis=1)
        at = np.flatnonzero(inside)
        for start in range(0, len(at), ROWS):
            part = at[start : start + ROWS]
            rows = np.broadcast_to(theta[part], (len(self.threshold), len(part), theta.shape[1]))
            density = _log_prob(self.posterior, rows, self.x)
            inside[part] = (density >= self.threshold[:, None]).any(axis=0)
        return inside


def _log_prob(posterior: Any, theta: np.ndarray, x: dict[str, np.ndarray]) -> np.ndarray:
    rows = np.array(theta)  # broadcast rows cannot be written to, of which torch warns
    return np.asarray(posterior.log_prob(rows, x).cpu().numpy(), float)


def _widened(low: np.ndarray, high: np.ndarray, least: Any, most: Any) -> np.ndarray:
    width = MARGIN * (high - low)
    return np.stack([np.maximum(low - width, least), np.minimum(high + width, most)])


def contained(regions: list[Region], theta: np.ndarray) -> np.ndarray:
    """Return which parameters (n, D) lie in all regions, shape (n,)."""
    inside = np.ones(len(theta), bool)
    for region in reversed(regions):
        inside[inside] = region.contains(theta[inside])
    return inside


def truncated(prior: Any, regions: list[Region], n: int, seed: int) -> tuple[np.ndarray, float]:
    """Draw from the prior restricted to regions; more draws begin with those of fewer.

    Candidates come from the prior within the boxes, where it has quantiles, else from all of it.

    Arguments:
        prior: the prior.
        regions: all of which must hold the draws.
        n: how many draws.
        seed: of the candidates.

    Returns:
        Parameters (n, D), and the share of the prior's candidates that lay inside.

    Raises:
        UsageError: the regions are so small that hardly any candidate lies inside.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    found: list[np.ndarray] = []
    count = tried = 0
    bounds = None
    if prior.has_quantile:
        low, high = (
            np.max([r.low for r in regions], axis=0),
            np.min([r.high for r in regions], axis=0),
        )
        bounds = prior.cube(np.stack([low, high]))
    while count < n:
        if bounds is None:
            theta = np.asarray(prior.sample(rng, CANDIDATES))
        else:
            u = bounds[0] + (bounds[1] - bounds[0]) * rng.random((CANDIDATES, len(prior.names)))
            theta = np.asarray(prior.quantile(u))
        inside = theta[contained(regions, theta)]
        found.append(inside)
        count, tried = count + len(inside), tried + len(theta)
        if tried >= MOST_CANDIDATES and count < n:
            raise UsageError(
                f"only {count} of {tried} draws of the prior lie in the region of this round: it is too small "
                "to be found by rejection. Use fewer rounds, or a larger --level"
            )
    whole = 1.0 if bounds is None else float(np.prod(bounds[1] - bounds[0]))
    return np.concatenate(found)[:n], whole * count / tried
