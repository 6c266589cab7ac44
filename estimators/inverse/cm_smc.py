"""Calibrated draws: sequential Monte Carlo in the noise of the consistency function.

A consistency function makes a draw of the prior from noise, u = g(sigma_max z, sigma_max), z ~ N(0, I). So the
posterior of z has a density, whatever A is,

    p(z | y) prop. to N(z; 0, I) p(y | A(g(z)))

and its draws pushed through g are those of the posterior under the prior that g draws from. Particles begin as
draws of the prior and pass through tempered posteriors

    p_b(z) prop. to N(z; 0, I) p(y | A(g(z)))^b,   0 = b_0 < b_1 < ... = 1

The next b leaves an effective sample size of `threshold` of the particles; these are resampled by their weights
and moved `moves` times by a Markov chain that has p_b as its invariant distribution and does not degrade with D:
preconditioned Crank-Nicolson, with the gradient of the likelihood where the operator has one,

    (2 + h) z' = (2 - h) z - 2 h grad Phi(z) + sqrt(8 h) w,   Phi = -b log p(y | A(g(z))),   w ~ N(0, I)

accepted by Metropolis and Hastings. h follows the share of accepted moves. Weighted sums converge with the number
of particles; nothing has to be tuned to the operator.

Del Moral, Doucet, Jasra: Sequential Monte Carlo Samplers (2006), JRSS B 68; Cotter, Roberts, Stuart, White: MCMC
Methods for Functions (2013), arXiv 1202.0709; Wu, Trippe, Naesseth, Blei, Cunningham: Practical and Asymptotically
Exact Conditional Sampling in Diffusion Models (2023), arXiv 2306.17775 (particles over the steps of a diffusion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.inverse.measurements import Measurements, gradient
from estimators.inverse.prior import DiffusionPrior
from estimators.inverse.solver import Solver
from estimators.settings import Flag, NonNegativeInt, PositiveInt

Share = Annotated[float, Field(gt=0, lt=1)]
HALVINGS = 40  # of the interval that holds the next b
TARGET = {True: 0.57, False: 0.3}  # share of accepted moves, with and without gradient
FIRST, LEAST, MOST = 0.5, 1e-7, 2.0  # of h
RATE = 1.0  # at which log h follows the share of accepted moves


@dataclass
class Particles:
    """The state for B measurements with k particles each.

    Attributes:
        z: shape (B, k, D). u: g(z), the same shape.
        log_likelihood: shape (B, k).
        slope: gradient of the log-likelihood by z; zeros without gradient.
    """

    z: Tensor
    u: Tensor
    log_likelihood: Tensor
    slope: Tensor

    def take(self, index: Tensor) -> Particles:
        """Return the particles at positions (B, k)."""
        wide = index.unsqueeze(-1).expand_as(self.z)
        return Particles(
            self.z.gather(1, wide),
            self.u.gather(1, wide),
            self.log_likelihood.gather(1, index),
            self.slope.gather(1, wide),
        )

    def replaced(self, other: Particles, where: Tensor) -> Particles:
        """Return the particles of `other` where (B, k) says so, these elsewhere."""
        wide = where.unsqueeze(-1)
        return Particles(
            torch.where(wide, other.z, self.z),
            torch.where(wide, other.u, self.u),
            torch.where(where, other.log_likelihood, self.log_likelihood),
            torch.where(wide, other.slope, self.slope),
        )


@dataclass
class Tempering:
    """How far the particles of B measurements are.

    Attributes:
        beta: b, shape (B,). h: size of a move, (B,).
        log_evidence: log p(y), shape (B,).
        least_ess: the least effective sample size so far, a share of the particles, (B,).
        accepted: share of accepted moves, the last, (B,).
        level: number of temperatures so far.
    """

    beta: Tensor
    h: Tensor
    log_evidence: Tensor
    least_ess: Tensor
    accepted: Tensor
    level: int = 0

    @classmethod
    def start(cls, sets: int, device: torch.device) -> Tempering:
        """Return the start, at b = 0."""
        zero, one = torch.zeros(sets, device=device), torch.ones(sets, device=device)
        return cls(zero, FIRST * one, zero.clone(), one, one)

    @property
    def finished(self) -> bool:
        """Whether all are at b = 1."""
        return bool((self.beta >= 1).all())

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What is reported of each measurement."""
        return {
            "levels": torch.full_like(self.beta, self.level),
            "least_ess": self.least_ess,
            "accepted": self.accepted,
            "log_evidence": self.log_evidence,
        }


class CMSMC(Solver):
    """Sequential Monte Carlo in the noise of the consistency function.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`, with a consistency function.
        particles: their least number for a measurement; fewer draws are chosen among them at random.
        moves: of every particle at each temperature.
        final_moves: further ones at the last.
        threshold: effective sample size that a temperature leaves, a share of the particles.
        most_levels: temperatures; where they do not suffice, the last step goes to b = 1 at once.
        gradient: whether moves use the gradient of the operator.
    """

    needs_consistency = True
    interacts = True

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        particles: PositiveInt = 200,
        moves: PositiveInt = 4,
        final_moves: NonNegativeInt = 8,
        threshold: Share = 0.5,
        most_levels: PositiveInt = 60,
        gradient: Flag = True,
    ) -> None:
        super().__init__(prior)
        self.particles, self.moves, self.final_moves = particles, moves, final_moves
        self.threshold = threshold
        self.most_levels, self.gradient = most_levels, gradient
        self.needs_gradient = gradient

    def made_together(self, n: int) -> int:
        return max(n, self.particles)

    @torch.no_grad()
    def draw(self, measured: Measurements, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        sets = len(measured.y) // n
        particles = self._at(measured, measured.noise().view(sets, n, -1))
        state = Tempering.start(sets, measured.y.device)
        while not state.finished:
            particles = self._resampled(measured, particles, state)
            for _ in range(self.moves + (self.final_moves if state.finished else 0)):
                particles = self._moved(measured, particles, state)
                measured.tick(float(state.beta.mean()))
        each = {key: value.repeat_interleave(n) for key, value in state.diagnostics.items()}
        return particles.u.flatten(0, 1), each

    def _resampled(
        self, measured: Measurements, particles: Particles, state: Tempering
    ) -> Particles:
        """Go to the next temperature and return the particles resampled by their weights."""
        state.level += 1
        step = self._next(particles.log_likelihood, state.beta)
        if state.level >= self.most_levels:
            step = 1 - state.beta
        log_weights = step[:, None] * particles.log_likelihood
        weights = log_weights.softmax(1)
        count = log_weights.shape[1]
        state.log_evidence += log_weights.logsumexp(1) - math.log(count)
        state.least_ess = torch.minimum(state.least_ess, 1 / weights.square().sum(1) / count)
        beta = state.beta + step
        state.beta = torch.where(beta > 1 - 1e-6, torch.ones_like(beta), beta)
        return particles.take(_systematic(weights, measured.generator))

    def _at(self, measured: Measurements, z: Tensor) -> Particles:
        """Return the particles at noise z (B, k, D)."""
        kept: list[Tensor] = []
        top = measured.sigmas[1]

        def log_likelihood(at: Tensor) -> Tensor:
            kept.append(measured.prior.consistency(top * at, top))
            return measured.log_likelihood(kept[0])

        flat = z.flatten(0, 1)
        if self.gradient:
            values, slope = gradient(log_likelihood, flat)
        else:
            values, slope = log_likelihood(flat), torch.zeros_like(flat)
        return Particles(z, kept[0].detach().view_as(z), values.view(z.shape[:2]), slope.view_as(z))

    def _next(self, log_likelihood: Tensor, beta: Tensor) -> Tensor:
        """Return the steps of b (B,) that leave the wanted effective sample size, or lead to 1."""
        low, high = torch.zeros_like(beta), 1 - beta
        enough = self._share(log_likelihood, high) >= self.threshold
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            good = self._share(log_likelihood, middle) >= self.threshold
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return torch.where(enough, 1 - beta, low)

    @staticmethod
    def _share(log_likelihood: Tensor, step: Tensor) -> Tensor:
        weights = (step[:, None] * log_likelihood).softmax(1)
        return 1 / weights.square().sum(1) / log_likelihood.shape[1]

    def _moved(self, measured: Measurements, now: Particles, state: Tempering) -> Particles:
        """Return the particles after a move; its size follows the share of accepted ones."""
        h, wide = state.h, state.h[:, None, None]
        noise = measured.noise().view_as(now.z)
        pull = state.beta[:, None, None] * now.slope  # -grad Phi
        z = ((2 - wide) * now.z + 2 * wide * pull + (8 * wide).sqrt() * noise) / (2 + wide)
        new = self._at(measured, z)
        log_ratio = _half(now, new, state.beta, h) - _half(new, now, state.beta, h)
        uniform = torch.rand(log_ratio.shape, generator=measured.generator).to(log_ratio.device)
        accept = uniform.log() < log_ratio
        state.accepted = accept.float().mean(1)
        change = RATE * (state.accepted - TARGET[self.gradient])
        state.h = (h * change.exp()).clamp(LEAST, MOST)
        return now.replaced(new, accept)


def _half(start: Particles, end: Particles, beta: Tensor, h: Tensor) -> Tensor:
    """Return rho(start, end) of Cotter et al., section 4.3, shape (B, k)."""
    b = beta[:, None]
    slope = -b.unsqueeze(-1) * start.slope
    return (
        -b * start.log_likelihood
        + 0.5 * ((end.z - start.z) * slope).sum(-1)
        + 0.25 * h[:, None] * ((start.z + end.z) * slope + slope.square()).sum(-1)
    )


def _systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return positions (B, k), each about k w times."""
    sets, count = weights.shape
    start = torch.rand(sets, 1, generator=generator).to(weights.device)
    at = (torch.arange(count, device=weights.device) + start) / count
    index = torch.searchsorted(weights.double().cumsum(1).contiguous(), at.double().contiguous())
    return index.clamp_max(count - 1)
