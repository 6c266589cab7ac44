"""An answer for one observation: draws, table, checks, and the forms in which other programs take it."""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.marginals import LEVELS, Marginals, marginals, mode
from evaluation.predictive import PredictiveCheck
from evaluation.scale import labels, on_scale
from pipeline.answer.check import DOUBT, GOOD, Check

FIGURES = 4  # digits
MOST_VALUES = 20  # of a discrete parameter that are printed
WHOLE = tuple(f"{round(100 * level)} %" for level in LEVELS)


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer for one observation.

    Attributes:
        names: of the D parameters.
        scales: of each, linear or log.
        observed: the outputs by name, each of its own shape.
        draws: posterior draws, shape (n, D), natural units.
        prior: prior draws, shape (m, D), natural units.
        checks: of the model and of the posterior at this observation.
        predicted: outputs of simulations at posterior draws, each (k, ...); empty where none were made.
        prior_predicted: outputs of training simulations, each (k, ...).
        predictive: numbers of the posterior predictive check.
        rests_on: shift of the answer without an output, in posterior standard deviations, by output.
        budgets: means and standard deviations by the trainings of the run.
        provenance: training, digests, seeds: JSON.
        path: the folder that it was written to, None before.
        number: which of several observations it is for; None of a single one.
        kinds: of each parameter, continuous, integer or category; empty: all continuous.
    """

    names: tuple[str, ...]
    scales: tuple[str, ...]
    observed: dict[str, np.ndarray]
    draws: np.ndarray
    prior: np.ndarray
    checks: tuple[Check, ...] = ()
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    prior_predicted: dict[str, np.ndarray] = field(default_factory=dict)
    predictive: PredictiveCheck | None = None
    rests_on: dict[str, float] = field(default_factory=dict)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    number: int | None = None
    kinds: tuple[str, ...] = ()

    @cached_property
    def marginals(self) -> Marginals:
        """Summaries of the draws in natural units; the mode has the most frequent discrete values."""
        found = marginals(self.draws, self.prior)
        discrete = [d for d, kind in enumerate(self.kinds) if kind != "continuous"]
        if not discrete:
            return found
        _, which, counts = np.unique(
            self.draws[:, discrete], axis=0, return_inverse=True, return_counts=True
        )
        return replace(found, mode=mode(self.draws[which.reshape(-1) == counts.argmax()]))

    @cached_property
    def probabilities(self) -> dict[str, list[tuple[int, float, float]]]:
        """Value, posterior and prior probability of each discrete parameter, by name."""
        found = {}
        for d, kind in enumerate(self.kinds):
            if kind != "continuous":
                values = np.unique(np.concatenate([self.draws[:, d], self.prior[:, d]]))
                found[self.names[d]] = [
                    (
                        int(v),
                        float((self.draws[:, d] == v).mean()),
                        float((self.prior[:, d] == v).mean()),
                    )
                    for v in values
                ]
        return found

    @cached_property
    def contraction(self) -> np.ndarray:
        """1 - var(posterior) / var(prior) of each parameter on the scale of its prior, shape (D,)."""
        draws, prior = (on_scale(values, self.scales) for values in (self.draws, self.prior))
        return np.asarray(1 - draws.var(axis=0) / np.maximum(prior.var(axis=0), 1e-300))

    @property
    def trusted(self) -> bool:
        """Whether every check that was done is good, and one was."""
        done = [check.verdict for check in self.checks if check.verdict in (GOOD, DOUBT)]
        return bool(done) and all(verdict == GOOD for verdict in done)

    @property
    def labels(self) -> list[str]:
        """The names of the parameters on the scale of their prior."""
        return labels(self.names, self.scales)

    def rows(self) -> list[dict[str, float | str | None]]:
        """Return the table: a mapping for each parameter, in natural units; of a category the mode alone."""
        found, table = self.marginals, []
        for d, name in enumerate(self.names):
            row: dict[str, float | str | None] = {"parameter": name}
            for key in ("mean", "sd", "median", "mode"):
                row[key] = float(getattr(found, key)[d])
            for level, interval in zip(WHOLE, found.hpd[:, d], strict=True):
                row[f"HPD {level} low"], row[f"HPD {level} high"] = map(float, interval)
            row["contraction"] = float(self.contraction[d])
            if self.kinds and self.kinds[d] == "category":
                row |= dict.fromkeys(row.keys() - {"parameter", "mode"})
            table.append(row)
        return table

    def to_dataframe(self) -> Any:
        """Return the table as a pandas frame with one line for each parameter."""
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index("parameter")

    def to_arviz(self) -> Any:
        """Return an ArviZ data tree; draws are one chain, since they are independent.

        Groups: posterior, prior, observed_data and, where simulated, posterior_predictive and prior_predictive.
        """
        import arviz_base

        groups = {
            "posterior": _columns(self.names, self.draws),
            "prior": _columns(self.names, self.prior),
            "posterior_predictive": {n: np.asarray(v)[None] for n, v in self.predicted.items()},
            "prior_predictive": {n: np.asarray(v)[None] for n, v in self.prior_predicted.items()},
            "observed_data": {name: np.asarray(v) for name, v in self.observed.items()},
        }
        tree = arviz_base.from_dict({name: group for name, group in groups.items() if group})
        tree.attrs = {key: str(value) for key, value in self.provenance.items()}
        return tree

    def __str__(self) -> str:
        head = ["", "mean", "sd", "median", "mode", *(f"HPD {one}" for one in WHOLE), "contraction"]
        lines = [head, *([str(row["parameter"]), *_cells(row)] for row in self.rows())]
        widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
        table = ["  ".join(map(_aligned, line, widths)) for line in lines]
        checks = [str(check) for check in self.checks]
        shares = [
            f"P({name} = {value})  {posterior:.3f}  prior {prior:.3f}"
            for name, values in self.probabilities.items()
            for value, posterior, prior in values[:MOST_VALUES]
        ]
        where = [f"page  {self.path / 'answer.html'}"] if self.path else []
        return "\n".join([*table, *shares, "", *checks, *where])

    def __repr__(self) -> str:
        return f"Answer of {len(self.draws)} draws\n{self}"

    def _repr_html_(self) -> str:
        """Return the table and the verdicts for a notebook."""
        cells = "".join(f"<li>{html.escape(str(check))}</li>" for check in self.checks)
        return f"{self.to_dataframe().to_html(float_format=lambda v: f'{v:.{FIGURES}g}')}<ul>{cells}</ul>"


def _aligned(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdecimal() or cell[:1] in "-[" else cell.ljust(width)


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = [shown(row[key]) for key in ("mean", "sd", "median", "mode")]
    intervals = [interval(row, level, "[{}, {}]") for level in WHOLE]
    return [*numbers, *intervals, shown(row["contraction"], ".3f")]


def shown(value: float | str | None, form: str = f".{FIGURES}g") -> str:
    """Return a number for people, "-" where there is none."""
    return "-" if value is None else f"{float(value):{form}}"


def interval(row: dict[str, Any], level: str, form: str) -> str:
    """Return an interval of the table for people."""
    low, high = (row[f"HPD {level} {end}"] for end in ("low", "high"))
    return "-" if low is None else form.format(shown(low), shown(high))


def _columns(names: tuple[str, ...], draws: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.asarray(draws[:, d])[None] for d, name in enumerate(names)}
