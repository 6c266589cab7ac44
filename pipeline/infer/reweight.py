"""Draws with importance weights, where the simulator of the run can compute its likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import load, simulator_of
from pipeline.errors import UsageError
from pipeline.progress import log
from pipeline.run import RunDirectory

if TYPE_CHECKING:
    from estimators import Posterior

UPDATES = 1000  # steps of the optimiser for the flow that is fitted to draws

Observations = dict[str, np.ndarray]


@dataclass(frozen=True)
class WeightedDraws:
    """Weighted draws for B observations.

    Attributes:
        theta: shape (B, n, D).
        weights: of sum one for each observation, shape (B, n).
        ess: effective sample size, shape (B,).
        log_evidence: log p(x), shape (B,).
        pareto_k: shape (B,); above 0.7 the weights are not reliable.
    """

    theta: np.ndarray
    weights: np.ndarray
    ess: np.ndarray
    log_evidence: np.ndarray
    pareto_k: np.ndarray


def reweighted(
    run: RunDirectory,
    posterior: Posterior,
    observations: Observations,
    x: Observations,
    n: int,
    sampling_steps: int | None,
    seed: int,
) -> WeightedDraws:
    """Draw from the posterior, or from a flow fitted to its draws, and weight by prior and likelihood.

    Arguments:
        run: the run directory.
        posterior: of its latest training.
        observations: as the simulator returns them, each (B, ...), for the likelihood.
        x: the observations as the posterior takes them, padded.
        n: draws for each observation.
        sampling_steps: network passes of a draw; None is the estimator's default.
        seed: of the draws.

    Raises:
        UsageError: the simulator gives no likelihood.
    """
    return weigh(simulator_of(load(run)), posterior, observations, x, n, sampling_steps, seed)


def weigh(
    simulator: Any,
    posterior: Posterior,
    observations: Observations,
    x: Observations,
    n: int,
    sampling_steps: int | None,
    seed: int,
) -> WeightedDraws:
    """Draw and weight, see `reweighted`, with a simulator that has a likelihood."""
    from estimators.importance import importance

    if not simulator.prior.has_density:
        raise UsageError(f"--reweight needs log p(theta), and the prior is {simulator.prior}")
    first = {name: values[0] for name, values in observations.items()}
    try:
        simulator.log_likelihood(simulator.prior.sample(np.random.default_rng(seed), 1), first)
    except ValueError as error:
        raise UsageError(f"--reweight: {error}; it needs log p(x | theta)") from error
    theta, log_proposal = _proposal(posterior, x, n, sampling_steps, seed)
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
        log(
            f"reweight: observation {b}, effective sample size {found[-1].ess:.0f} of {n}, "
            f"log evidence {found[-1].log_evidence:.4g}, Pareto k {found[-1].k:.2f}"
            + ("" if found[-1].reliable else ": not reliable")
        )
    return WeightedDraws(
        theta,
        np.stack([one.weights for one in found]),
        np.array([one.ess for one in found]),
        np.array([one.log_evidence for one in found]),
        np.array([one.k for one in found]),
    )


def _proposal(
    posterior: Posterior, x: Observations, n: int, sampling_steps: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws (B, n, D) with their log-density (B, n)."""
    import estimators

    try:
        pair: Any = posterior.sample_with_log_prob(x, n, sampling_steps=sampling_steps, seed=seed)
    except NotImplementedError as error:
        log(f"reweight: {error}")
        log("reweight: fits a spline flow to the draws and takes it as the proposal")
        flow = estimators.distil(
            posterior,
            x,
            sampling_steps=sampling_steps,
            arguments={"transforms": 3},
            updates=UPDATES,
            seed=seed,
        )
        pair = flow.sample_with_log_prob(x, n, seed=seed)
    theta, log_prob = pair
    return theta.double().cpu().numpy(), log_prob.double().cpu().numpy()
