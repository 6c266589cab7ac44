"""Whether several ways to one posterior agree: trainings, members, simulations of its draws, the likelihood."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from estimators import OutOfRangeWarning, Posterior
from estimators.ensemble import Ensemble
from evaluation.posterior_sbc import posterior_sbc
from evaluation.scale import on_scale
from pipeline.answer.check import DOUBT, GOOD, LEVEL, OPEN, Check
from pipeline.errors import UsageError
from pipeline.infer.reweight import weigh

DRAWS = 800  # of each member
POOL = 1000  # draws that ranks are taken among
FARTHEST = 0.5  # posterior standard deviations between two means
WIDEST = 1.5  # ratio of two standard deviations
WEIGHTED = 2000  # draws that get weights
FEWEST = 0.01  # share of them that is worth independent draws of the exact posterior


def again(
    posterior: Any, prior: Any, theta: np.ndarray, x: dict[str, np.ndarray], pool: np.ndarray
) -> Check:
    """Does the posterior find parameters again that were drawn from it?

    Arguments:
        posterior: the posterior.
        prior: the prior.
        theta: draws that were simulated, shape (n, D).
        x: their outputs as the posterior takes them, each array (n, ...).
        pool: other draws, shape (m, D).
    """
    question = "Does the posterior find its own parameters again?"
    if not isinstance(posterior, Posterior):
        return Check(question, OPEN, "A refined posterior holds for its own observation alone.")
    if posterior.sampling_steps is not None or not posterior.module.has_log_prob:
        said = f"Estimator {posterior.estimator!r} has no density that is quick to compute."
        return Check(question, OPEN, said, "Train one that has: estimator=nsf.")
    if not prior.has_density:
        return Check(question, OPEN, "The prior has no density.")
    rows = np.broadcast_to(pool, (len(theta), *pool.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)
        try:
            density = posterior.log_prob(np.array(rows), x).cpu().numpy().astype(float)
            found = posterior_sbc(theta, pool, density - prior.log_prob(pool))
        except (NotImplementedError, ValueError) as error:
            return Check(question, OPEN, f"{error}.".replace("..", "."))
    said = f"Posterior SBC: p = {found.p_value:.2g} with {found.simulations} simulations."
    values = {"p_value": found.p_value, "effective": found.effective, "n": found.simulations}
    if found.p_value > LEVEL:
        return Check(question, GOOD, said, values=values)
    centre, width = found.p_centre.min(), found.p_width.min()
    wrong = "centre" if centre < width else "width"
    name = posterior.names[int((found.p_centre if centre < width else found.p_width).argmin())]
    return Check(
        question,
        DOUBT,
        f"{said} The {wrong} of {name} is not right.",
        "Train longer or with more simulations.",
        values,
    )


def members(
    posterior: Any, x: dict[str, np.ndarray], scales: Sequence[str], seed: int
) -> list[Any]:
    """Return name, means and standard deviations of the members of an ensemble."""
    found = []
    module = getattr(posterior, "module", None)
    inner = module.estimators if isinstance(module, Ensemble) else []
    for k, member in enumerate(inner):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutOfRangeWarning)
            drawn = member.posterior().sample(x, DRAWS, seed=seed)
        draws = on_scale(drawn.cpu().numpy()[0], scales)
        found.append((f"member {k + 1}", draws.mean(0), draws.std(0)))
    return found


def agreement(draws: np.ndarray, others: list[Any], names: Sequence[str]) -> Check | None:
    """Do estimators agree? None where there is but one.

    Arguments:
        draws: of the posterior, on the scale of the prior, shape (n, D).
        others: name, means (D,) and standard deviations (D,) of each other one.
        names: of the parameters.
    """
    question = "Do estimators agree?"
    if not others:
        return None
    mean, sd = draws.mean(0), np.maximum(draws.std(0), 1e-300)
    shift = np.array([np.abs(one[1] - mean) / sd for one in others])
    ratio = np.array([np.abs(np.log(np.maximum(one[2], 1e-300) / sd)) for one in others])
    k, d = divmod(int(shift.argmax()), shift.shape[1])
    most = float(np.exp(ratio.max()))
    said = (
        f"Of {len(others)} others {others[k][0]} is furthest: its mean of {names[d]} lies "
        f"{shift[k, d]:.2f} sd away; widths differ by a factor of at most {most:.2f}."
    )
    values = {"shift": float(shift.max()), "ratio": most, "others": len(others)}
    if shift.max() <= FARTHEST and math.log(most) <= math.log(WIDEST):
        return Check(question, GOOD, said, values=values)
    advice = "Their differences are an error that no interval shows: train with more simulations."
    return Check(question, DOUBT, said, advice, values)


def likelihood(
    simulator: Any,
    posterior: Any,
    observed: dict[str, np.ndarray],
    x: dict[str, np.ndarray],
    draws: np.ndarray,
    sampling_steps: int | None,
    seed: int,
) -> Check | None:
    """Does the likelihood agree? None where the simulator has none.

    Arguments:
        posterior: the proposal.
        observed: the observation as the simulator gives it, each output of its own shape.
        x: the same as the posterior takes it, each array (1, ...).
        draws: of the posterior, natural units, shape (n, D).
    """
    question = "Does the likelihood agree?"
    if not (simulator.has_log_likelihood and simulator.prior.has_density):
        return None
    outputs = {name: np.asarray(values)[None] for name, values in observed.items()}
    if not all(np.isfinite(values).all() for values in outputs.values()):
        return Check(question, OPEN, "Its value is not known where outputs are absent.")
    try:
        found = weigh(simulator, posterior, outputs, x, WEIGHTED, sampling_steps, seed)
    except (UsageError, NotImplementedError) as error:
        return Check(question, OPEN, f"{error}.")
    theta, weights = found.theta[0], found.weights[0]
    k, share = float(found.pareto_k[0]), float(found.ess[0]) / WEIGHTED
    shift = np.abs(weights @ theta - draws.mean(0)) / np.maximum(draws.std(0), 1e-300)
    said = (
        f"Importance weights: effective sample size {found.ess[0]:.0f} of {WEIGHTED}, Pareto k {k:.2f}, "
        f"log evidence {found.log_evidence[0]:.4g}."
    )
    values = {"ess": float(found.ess[0]), "pareto_k": k, "shift": float(shift.max())}
    values["log_evidence"] = float(found.log_evidence[0])
    if not (k <= 0.7 and share >= FEWEST):
        advice = (
            "The posterior misses part of the exact one: train longer or with more simulations."
        )
        return Check(question, DOUBT, said, advice, values)
    said += f" Weighted means differ by at most {shift.max():.2f} sd."
    if shift.max() <= FARTHEST:
        return Check(question, GOOD, said, values=values)
    advice = "Use weighted draws: `sbiflow sample --reweight`."
    return Check(question, DOUBT, said, advice, values)
