"""The checks of an answer, each with a verdict in plain words and what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from estimators import OutOfRangeWarning
from evaluation.local_c2st import local_c2st
from evaluation.misspecification import oddness
from evaluation.predictive import predictive_check
from evaluation.scale import on_scale
from pipeline.answer.evidence import Evidence, element_names, flattened, present, summaries

LEVEL = 0.05
GOOD, DOUBT, OPEN = "good", "doubt", "not done"
MOST_NAMED = 5
LOCAL_ROWS, LOCAL_DRAWS = 400, 40
Quantities = Mapping[str, Callable[[dict[str, np.ndarray]], float]]


@dataclass(frozen=True)
class Check:
    """A check of an answer.

    Attributes:
        question: what it asks.
        verdict: good, doubt or not done.
        sentence: what was found.
        advice: what to do about it, "" where nothing is to be done.
        values: the numbers, JSON.
    """

    question: str
    verdict: str
    sentence: str
    advice: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.question} {self.verdict.upper()}: {self.sentence} {self.advice}".strip()


def model_check(evidence: Evidence, posterior: Any, x: dict[str, np.ndarray]) -> Check:
    """Is the observation like what the model makes?

    Arguments:
        x: the observation as the posterior takes it, each array (1, ...).
    """
    question = "Is the observation like what the model makes?"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OutOfRangeWarning)
        posterior.summary(x)
    train, held_out, seen = evidence.train, evidence.held_out, present(x)
    summary = [summaries(posterior, rows) for rows in (train.x, held_out.x, x)]
    try:
        flat = (train.flat[:, seen], held_out.flat[:, seen], flattened(x)[0, seen])
        found = oddness(*flat, (summary[0], summary[1], summary[2][0]))
    except ValueError as error:
        return Check(question, OPEN, f"{error}.", "Simulate more: run.grow(test=200).")
    values = {"p_value": found.p_value, **{f"p_{k}": v for k, v in found.p_values.items()}}
    range_ = next((str(w.message) for w in caught if w.category is OutOfRangeWarning), "")
    said = f"p = {found.p_value:.2g} among {found.simulations} simulations."
    if found.p_value > LEVEL and not range_:
        return Check(question, GOOD, said, values=values)
    odd = _largest(np.abs(found.residual), list(compress(element_names(x), seen)))
    where = f" Least expected from the other outputs: {odd}." if odd else ""
    return Check(
        question,
        DOUBT,
        f"{said}{where}{f' {range_}.' if range_ else ''}",
        "The model seldom or never makes such outputs, so the posterior may mean nothing here: look at the "
        "outputs that are named, at units and order, and at what the model leaves out.",
        values | {"odd": odd, "range": range_},
    )


def _largest(values: np.ndarray, names: list[str]) -> str:
    order = np.argsort(values)[::-1][:MOST_NAMED]
    return ", ".join(f"{names[k]} ({values[k]:.1f} sd)" for k in order if values[k] > 3)


def predictive(
    outputs: dict[str, np.ndarray], predicted: dict[str, np.ndarray], quantities: Quantities
) -> tuple[Check, Any]:
    """Does the model at these parameters make such an observation? Return also the numbers for pictures.

    Arguments:
        outputs: the observation, each array (1, ...).
        predicted: simulations from the posterior, each array (n, ...).
        quantities: test quantities by name: functions of one simulation's outputs.
    """
    question = "Do simulations from the posterior look like the observation?"
    given: dict[str, tuple[float, np.ndarray]] = {}
    count = len(next(iter(predicted.values()))) if predicted else 0
    for name, quantity in quantities.items():
        rows = [float(quantity({k: v[i] for k, v in predicted.items()})) for i in range(count)]
        given[name] = float(quantity({k: v[0] for k, v in outputs.items()})), np.array(rows)
    try:
        seen = present(outputs)
        found = predictive_check(flattened(outputs)[0, seen], flattened(predicted)[:, seen], given)
        found = found.among(seen)
    except ValueError as error:
        return Check(question, OPEN, f"{error}."), None
    inside = f"{found.inside[1]:.0%} of the outputs lie in their 90 % interval"
    said = f"p = {found.p_value:.2g} among {found.simulations} simulations; {inside}."
    values = {"p_value": found.p_value, "inside_50": float(found.inside[0])}
    values |= {"inside_90": float(found.inside[1])} | {
        f"p_{k}": v for k, v in found.p_values.items()
    }
    if found.p_value > LEVEL:
        return Check(question, GOOD, said, values=values), found
    odd = np.argsort(found.tail)[:MOST_NAMED]
    names = element_names(outputs)
    named = ", ".join(names[k] for k in odd if found.tail[k] <= LEVEL)
    advice = "The model does not reproduce the observation with these parameters: do not trust their intervals."
    more = f" Furthest out: {named}." if named else ""
    return Check(question, DOUBT, said + more, advice, values), found


def local_check(
    evidence: Evidence,
    posterior: Any,
    x: dict[str, np.ndarray],
    draws: np.ndarray,
    scales: Sequence[str],
    sampling_steps: int | None,
    seed: int,
) -> Check:
    """Is the posterior right here? By L-C2ST on simulations that did not train it.

    Arguments:
        x: the observation as the posterior takes it, each array (1, ...).
        draws: posterior draws for it on the scale of the prior, shape (n, D).
    """
    question = "Is the posterior right here?"
    held_out = evidence.held_out
    rows = slice(0, LOCAL_ROWS)
    inputs = {name: values[rows] for name, values in held_out.x.items()}
    if not len(held_out):
        return Check(question, OPEN, "There are no simulations that did not train the posterior.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)
        theirs = posterior.sample(inputs, LOCAL_DRAWS, sampling_steps=sampling_steps, seed=seed)
    try:
        found = local_c2st(
            on_scale(held_out.theta[rows], scales),
            summaries(posterior, inputs),
            on_scale(theirs.cpu().numpy(), scales),
            summaries(posterior, x)[0],
            draws[:LOCAL_ROWS],
            seed=seed,
        )
    except ValueError as error:
        return Check(question, OPEN, f"{error}.", "Simulate more: run.grow(test=200).")
    said = f"L-C2ST: p = {found.p_value:.2g} with {found.simulations} simulations."
    values = {"p_value": found.p_value, "statistic": found.statistic, "n": found.simulations}
    if found.p_value > LEVEL:
        return Check(question, GOOD, said, values=values)
    return Check(
        question,
        DOUBT,
        f"{said} True parameters can be told from posterior draws at observations like this one.",
        "Its width or its centre is not right: train longer or with more simulations.",
        values,
    )
