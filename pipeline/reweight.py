"""Draws with importance weights, where the run's simulator can compute its likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import build, read, simulator_of
from pipeline.errors import UsageError
from pipeline.progress import say
from pipeline.run import Run

if TYPE_CHECKING:
    from estimators import Posterior

UPDATES = 1000  # steps of the optimiser for the flow that is fitted to draws

Observations = dict[str, np.ndarray]


@dataclass(frozen=True)
class Weighted:
    """Draws for B observations; weights sum to one for each of them."""

    theta: np.ndarray  # (B, n, D)
    weights: np.ndarray  # (B, n)
    ess: np.ndarray  # (B,), effective sample size
    log_evidence: np.ndarray  # (B,)
    pareto_k: np.ndarray  # (B,), above 0.7 the weights are not to be trusted


def reweighted(
    run: Run,
    posterior: Posterior,
    observations: Observations,
    x: Observations,
    n: int,
    steps: int | None,
    seed: int,
) -> Weighted:
    """Draw from the posterior, or from a flow fitted to its draws, and weight by prior and likelihood.

    Args:
        observations: as the simulator gives them, each (B, ...), for the likelihood.
        x: the same as the posterior takes them, padded.
        n, steps, seed: of the draws.

    Raises:
        UsageError: the simulator gives no likelihood.
    """
    from estimators.importance import importance

    simulator = simulator_of(build(read(run.config)))
    first = {name: values[0] for name, values in observations.items()}
    try:
        simulator.log_likelihood(simulator.prior.sample(np.random.default_rng(seed), 1), first)
    except ValueError as error:
        raise UsageError(f"--reweight: {error}; it needs log p(x | theta)") from error
    theta, log_proposal = _proposal(posterior, x, n, steps, seed)
    found = []
    for b in range(len(theta)):
        one = {name: values[b] for name, values in observations.items()}
        log_prior = simulator.prior.log_prob(theta[b])
        log_likelihood = np.full(n, -np.inf)
        possible = np.isfinite(log_prior)
        log_likelihood[possible] = simulator.log_likelihood(theta[b][possible], one)
        try:
            found.append(importance(log_proposal[b], log_prior, log_likelihood))
        except ValueError as error:
            raise UsageError(f"--reweight, observation {b}: {error}") from error
        say(
            f"reweight: observation {b}, effective sample size {found[-1].ess:.0f} of {n}, "
            f"log evidence {found[-1].log_evidence:.4g}, Pareto k {found[-1].k:.2f}"
            + ("" if found[-1].reliable else ": not to be trusted")
        )
    return Weighted(
        theta,
        np.stack([one.weights for one in found]),
        np.array([one.ess for one in found]),
        np.array([one.log_evidence for one in found]),
        np.array([one.k for one in found]),
    )


def _proposal(
    posterior: Posterior, x: Observations, n: int, steps: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws (B, n, D) with their log-density (B, n)."""
    import estimators

    try:
        pair: Any = posterior.sample_with_log_prob(x, n, steps=steps, seed=seed)
    except NotImplementedError as error:
        say(f"reweight: {error}")
        say("reweight: fits a spline flow to the draws and takes it as the proposal")
        flow = estimators.distil(
            posterior, x, steps=steps, arguments={"transforms": 3}, updates=UPDATES, seed=seed
        )
        pair = flow.sample_with_log_prob(x, n, seed=seed)
    theta, log_prob = pair
    return theta.double().cpu().numpy(), log_prob.double().cpu().numpy()
