"""Learning curves: how a metric falls with the budget, and what more simulations are expected to bring.

    y(n) = a + b n^-c,    a >= floor,  b >= 0,  0.05 <= c <= 2

fitted by weighted least squares to the means over the seeds at each budget n. Where the value p of a perfect
posterior is known, what stays at any budget, a - p, counts as the estimator's share of the error, with its
training and the noise of the metric, and b n^-c as the sample's. The band is a parametric bootstrap: the means
are drawn again from Student's distribution with the standard error of each mean, and fitted again.

Reference: Deep Learning Scaling is Predictable, Empirically (2017, arXiv 1712.00409).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

EXPONENTS = np.geomspace(0.05, 2.0, 80)
REPETITIONS = 1000
LEAST = 3  # budgets below which nothing is fitted
BAND = (0.05, 0.95)
PERFECT = {"c2st.mean": 0.5, "c2st_paper.mean": 0.5, "mmd.mean": 0.0}  # of a perfect posterior
FLOORS = PERFECT | {"validation_loss": -math.inf}  # others: 0
FITTED = (
    "validation_loss", "c2st.mean", "c2st_paper.mean", "mmd.mean", "rmse_paper.mean", "nrmse.mean", "ece.max",
)  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Fits to the observed means and to each draw of the bootstrap.

    Attributes:
        offset, scale, exponent: a, b and c, each (R,); the first is the fit to the observed means.
        floor: the lowest possible a.
    """

    offset: np.ndarray
    scale: np.ndarray
    exponent: np.ndarray
    floor: float

    def at(self, budget: float) -> np.ndarray:
        """Return y at a budget for each fit, shape (R,)."""
        return np.asarray(self.offset + self.scale * budget**-self.exponent)


@dataclass(frozen=True)
class LearningCurve:
    """A metric of one combination of a study against the budget.

    Attributes:
        metric: its name.
        axes: the combination, without budget and seed.
        sampling_steps: of the draws.
        budgets: shape (K,).
        means: over the seeds, shape (K,).
        errors: standard errors of the means, shape (K,).
        freedom: degrees of freedom of the standard errors.
        seeds: at each budget, shape (K,).
    """

    metric: str
    axes: dict[str, str]
    sampling_steps: int | None
    budgets: np.ndarray
    means: np.ndarray
    errors: np.ndarray
    freedom: int
    seeds: np.ndarray

    @cached_property
    def fit(self) -> Fit:
        """The fits."""
        rng = np.random.default_rng(0)
        noise = rng.standard_t(self.freedom, (REPETITIONS, len(self.means))) * self.errors
        drawn = np.concatenate([self.means[None], self.means + noise])
        return fit(self.budgets, drawn, self.errors, FLOORS.get(self.metric, 0.0))

    def forecast(self, budget: int) -> dict[str, Any]:
        """Return what is expected at a budget: `mean`, and `low` and `high` of the band."""
        low, high = np.quantile(self.fit.at(budget)[1:], BAND)
        return {
            "budget": budget,
            "mean": float(self.fit.at(budget)[0]),
            "low": float(low),
            "high": float(high),
        }

    def values(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        largest = int(self.budgets[-1])
        fitted = self.fit
        now, twice = fitted.at(largest), fitted.at(2 * largest)
        values: dict[str, Any] = {
            "metric": self.metric,
            "axes": self.axes,
            "sampling_steps": self.sampling_steps,
            "budgets": self.budgets.tolist(),
            "means": self.means.tolist(),
            "errors": self.errors.tolist(),
            "seeds": self.seeds.tolist(),
            "offset": float(fitted.offset[0]),
            "scale": float(fitted.scale[0]),
            "exponent": float(fitted.exponent[0]),
            "next": self.forecast(2 * largest),
            "gain": _ranged(now - twice),
        }
        if self.metric in PERFECT:
            error, stays = now - fitted.floor, fitted.offset - fitted.floor
            values |= {"floor": fitted.floor, "error": _ranged(error), "estimator": _ranged(stays)}
        return values


def fit(budgets: np.ndarray, means: np.ndarray, errors: np.ndarray, floor: float) -> Fit:
    """Fit a + b n^-c by least squares: linear in a and b for each c of a grid.

    Arguments:
        budgets: n, shape (K,).
        means: y, one row for each fit, shape (R, K).
        errors: standard errors of y, shape (K,).
        floor: the lowest possible a.
    """
    weights = 1 / np.maximum(errors, 1e-12) ** 2
    weights = weights / weights.sum()
    x = budgets[None] ** -EXPONENTS[:, None]  # (C, K)
    x_mean, y_mean = x @ weights, means @ weights
    x_centred, y_centred = x - x_mean[:, None], means - y_mean[:, None]
    slope = (y_centred * weights) @ x_centred.T / (x_centred**2 @ weights)  # (R, C)
    slope = np.maximum(slope, 0.0)
    offset = y_mean[:, None] - slope * x_mean
    low = offset < floor
    if math.isfinite(floor):
        bound = np.maximum(((means - floor) * weights) @ x.T / (x**2 @ weights), 0.0)
        slope, offset = np.where(low, bound, slope), np.where(low, floor, offset)
    residual = means[:, None] - offset[..., None] - slope[..., None] * x  # (R, C, K)
    best = (residual**2 @ weights).argmin(1)
    rows = np.arange(len(means))
    return Fit(offset[rows, best], slope[rows, best], EXPONENTS[best], floor)


def learning_curves(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the learning curves of a study's cases as JSON values, see `fitted`."""
    return [curve.values() for curve in fitted(rows)]


def fitted(rows: Iterable[Mapping[str, Any]]) -> list[LearningCurve]:
    """Return the learning curves of a study's cases, as far as there are enough budgets.

    Arguments:
        rows: `cases` of `study.json`.
    """
    groups: dict[tuple[Any, ...], dict[int, list[dict[str, float | None]]]] = {}
    for row in rows:
        if row["state"] != "complete":
            continue
        axes = tuple(
            (axis, name) for axis, name in row["axes"].items() if axis not in ("budget", "seed")
        )
        for number, one in enumerate(row["measured"]):
            values = one["metrics"] | (
                {} if number else {"validation_loss": row["validation_loss"]}
            )
            group = groups.setdefault((axes, one["sampling_steps"]), {})
            group.setdefault(row["budget"], []).append(values)
    return [
        curve
        for (axes, steps), group in groups.items()
        for metric in FITTED
        if (curve := _curve(metric, dict(axes), steps, group)) is not None
    ]


def _curve(
    metric: str,
    axes: dict[str, str],
    steps: int | None,
    group: Mapping[int, Sequence[Mapping[str, float | None]]],
) -> LearningCurve | None:
    found = {
        budget: [
            (one[metric], one.get(f"{metric.partition('.')[0]}.sem"))
            for one in ones
            if one.get(metric) is not None
        ]
        for budget, ones in sorted(group.items())
    }
    found = {budget: values for budget, values in found.items() if values}
    if len(found) < LEAST:
        return None
    means = np.array([np.mean([value for value, _ in values]) for values in found.values()])
    seeds = np.array([len(values) for values in found.values()])
    errors, freedom = _errors(list(found.values()), means, seeds)
    if errors is None:
        return None
    budgets = np.array(list(found), float)
    return LearningCurve(metric, axes, steps, budgets, means, errors, freedom, seeds)


def _errors(
    values: Sequence[Sequence[tuple[Any, Any]]], means: np.ndarray, seeds: np.ndarray
) -> tuple[np.ndarray | None, int]:
    """Return the standard error of each mean, and its degrees of freedom.

    The spread between seeds is taken to be the same at all budgets. With one seed the spread over the test sets
    stands for it; where that is not measured either, nothing is known.
    """
    freedom = int(np.sum(seeds - 1))
    if freedom:
        squares = sum(
            float(np.sum((np.array([v for v, _ in ones]) - mean) ** 2))
            for ones, mean in zip(values, means, strict=True)
        )
        return np.sqrt(squares / freedom / seeds) + 1e-9, freedom
    sems = [ones[0][1] for ones in values]
    if any(sem is None for sem in sems):
        return None, 0
    return np.array(sems, float) + 1e-9, 100


def _ranged(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], BAND)
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def sentence(curve: Mapping[str, Any], name: str) -> str:
    """Return what a learning curve says, as a sentence."""
    budget, ahead, gain = int(curve["budgets"][-1]), curve["next"], curve["gain"]
    steps = "" if curve["sampling_steps"] is None else f", {curve['sampling_steps']} sampling steps"
    who = ", ".join(curve["axes"].values())
    text = (
        f"{who + ': ' if who else ''}{name}{steps if curve['metric'] != 'validation_loss' else ''} is"
        f" {curve['means'][-1]:.4g} at {budget}; {ahead['budget']} simulations are expected to bring"
        f" {ahead['mean']:.4g} ({ahead['low']:.4g} to {ahead['high']:.4g}), a gain of"
        f" {gain['mean']:.2g} ({gain['low']:.2g} to {gain['high']:.2g})"
    )
    if "estimator" not in curve:
        return text
    error, stays = curve["error"], curve["estimator"]
    return (
        f"{text}. Of the error of {error['mean']:.2g} at {budget}, {stays['mean']:.2g}"
        f" ({stays['low']:.2g} to {stays['high']:.2g}) would stay with any number of simulations"
    )
