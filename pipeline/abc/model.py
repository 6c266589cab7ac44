"""Adapters of a prior and a simulator for pyABC.

pyABC draws from numpy's global generator, which the sampler seeds before each simulation. Draws of prior and
simulator come from a generator that is seeded by the global one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
import pyabc

from pipeline.store import Outcome
from simulators.distribution import LogNormal, LogUniform

LOGARITHMIC = (LogNormal, LogUniform)
DRAW_ONLY = ContextVar("draw_only", default=False)  # whether parameters are drawn and not simulated


class SimulationFailed(Exception):
    """A simulation without usable outputs: its particle is rejected."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(outcome, message)
        self.outcome, self.message = outcome, message


class Drawn(Exception):
    """The parameters of a particle, where `DRAW_ONLY` is set."""

    def __init__(self, theta: np.ndarray) -> None:
        super().__init__(theta)
        self.theta = theta


class Coordinates:
    """The coordinates z in which particles are perturbed: log theta_j for positive parameters on a log scale.

    Those are the log-uniform and log-normal ones of independent parameters; z_j = theta_j otherwise. Their names
    are `log_NAME` and `NAME`.
    """

    def __init__(self, prior: Any) -> None:
        kinds = getattr(prior, "distributions", {})
        self.names = tuple(prior.names)
        self.log = np.array([isinstance(kinds.get(name), LOGARITHMIC) for name in self.names])
        self.labels = tuple(
            f"log_{name}" if log else name for name, log in zip(self.names, self.log, strict=True)
        )

    def theta(self, particle: Mapping[str, float]) -> np.ndarray:
        """Return theta (D,) in natural units."""
        return self.natural(np.array([particle[label] for label in self.labels]))

    def natural(self, z: np.ndarray) -> np.ndarray:
        """Return theta (..., D) for z (..., D)."""
        return np.where(self.log, np.exp(np.where(self.log, z, 0.0)), z)

    def z(self, theta: np.ndarray) -> np.ndarray:
        """Return z (..., D) for theta (..., D)."""
        return np.where(self.log, np.log(np.where(self.log, theta, 1.0)), theta)

    def log_jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Return log |d theta / d z| of theta (n, D), shape (n,)."""
        return np.asarray(np.log(np.where(self.log, theta, 1.0)).sum(axis=-1))

    def particle(self, theta: np.ndarray) -> pyabc.Parameter:
        """Return z by label for theta (D,)."""
        return pyabc.Parameter(dict(zip(self.labels, self.z(theta).tolist(), strict=True)))


class AbcPrior(pyabc.DistributionBase):
    """A prior for pyABC, with density p(z) = p(theta(z)) prod_j theta_j over the logarithmic j."""

    def __init__(self, prior: Any) -> None:
        self.prior, self.coordinates = prior, Coordinates(prior)

    def rvs(self, *args: Any, **kwargs: Any) -> pyabc.Parameter:
        return self.coordinates.particle(self.prior.sample(_generator(), 1)[0])

    def pdf(self, x: Mapping[str, float]) -> float:
        z = np.array([[x[label] for label in self.coordinates.labels]])
        return float(np.exp(self.log_prob(z)[0]))

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Return log p(z) of z (n, D), shape (n,)."""
        theta = self.coordinates.natural(z)
        # exp(log(bound)) may lie one rounding error outside
        inside = np.clip(theta, self.prior.low, self.prior.high)
        theta = np.where(np.isclose(theta, inside, rtol=1e-14, atol=0.0), inside, theta)
        found = np.asarray(self.prior.log_prob(theta))
        where = np.isfinite(found)
        found[where] += self.coordinates.log_jacobian(theta[where])
        return found


class AbcModel(pyabc.Model):
    """A simulator for pyABC."""

    def __init__(self, simulator: Any, timeout: float | None) -> None:
        super().__init__(simulator.name)
        self.simulator, self.timeout = simulator, timeout
        self.coordinates = Coordinates(simulator.prior)

    def sample(self, pars: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Simulate once.

        Raises:
            SimulationFailed: the simulator raised, took too long, or returned NaN or Inf.
            Drawn: only the parameters are wanted.
        """
        theta, rng = self.coordinates.theta(pars), _generator()
        if DRAW_ONLY.get():
            raise Drawn(theta)
        try:
            x = self._observed(self.simulator.simulate(theta, rng, timeout=self.timeout), rng)
        # A simulator may raise anything, also SystemExit and KeyboardInterrupt: all are its failures.
        except BaseException as error:
            late = isinstance(error, TimeoutError) and self.simulator.owns_timeout
            outcome = Outcome.TIMEOUT if late else Outcome.FAILED
            raise SimulationFailed(outcome, f"{type(error).__name__}: {error}") from None
        bad = [name for name, value in x.items() if not np.isfinite(value).all()]
        if bad:
            raise SimulationFailed(Outcome.INVALID, f"NaN or Inf in {', '.join(bad)}")
        return dict(x)

    def _observed(
        self, x: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Return what is observed of latent outputs, where the simulator has a noise model."""
        if self.simulator.observe is None:
            return x
        seeds = rng.integers(2**64, size=1, dtype=np.uint64)
        one = self.simulator.observed({name: value[None] for name, value in x.items()}, seeds)
        return {name: value[0] for name, value in one.items()}


def _generator() -> np.random.Generator:
    return np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))
