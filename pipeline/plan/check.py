"""What can be known before it is needed: everything that a configuration names is built once.

Three depths, by what they cost. `requirements.require` needs no simulation. `approval.approve` needs the first
outputs, which the simulation stage has anyway. `check` runs a few simulations for this alone, and writes nothing.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from pipeline.config import IMPORTED, Config
from pipeline.errors import UsageError
from pipeline.plan.approval import approve
from pipeline.plan.noise import try_noise
from pipeline.plan.requirements import check_estimator, check_preprocessing, problems, problems_of
from pipeline.plan.stage import FIXED_ROW_BYTES, Probe
from pipeline.progress import log
from pipeline.simulate.spec import check_schema, schema_of
from pipeline.simulate.trial import DRAWS, EDGES, NOISE, PATIENCE, Attempt, TrialSpec, attempts
from pipeline.store import Outcome, Rows, Schema

MOST_NAMED = 20  # parameters with their values in a message


@dataclass(frozen=True)
class CheckResult:
    """What `sbiflow check` found out about a configuration."""

    probe: Probe | None  # none: no simulation gave outputs
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    theta: np.ndarray  # (n, D), of the simulations that gave outputs
    deterministic: bool | None  # none: it was not tried twice


def check(config: Config) -> CheckResult:
    """Build everything that a run of this configuration needs, and try it.

    Raises:
        UsageError: the simulations are imported ones, of which there is nothing to try.
    """
    found = problems(config, stages=True)
    if config.simulator.name == IMPORTED:
        raise UsageError(
            "simulator 'imported': there is none to try, its simulations are ready-made"
        )
    try:
        trial = _trial(config)
    except UsageError:  # it is among the problems
        return CheckResult(None, tuple(found), (), np.zeros((0, 0)), None)
    report = TrialReport(trial)
    try:
        for attempt in attempts(trial, config.simulate.cpus, log):
            report.add(attempt)
    except UsageError as error:
        report.problems.append(str(error))
    found += report.problems
    named = problems_of(check_estimator, config) + problems_of(check_preprocessing, config)
    if report.schema is not None and not named:
        found += problems_of(lambda config: approve(config, trial, report.rows[0]), config)
    return report.result(found)


def _trial(config: Config) -> TrialSpec:
    from pipeline.simulate.setup import spec_of

    spec = spec_of(config, "train")
    values = vars(spec) | {"timeout": config.simulate.timeout or PATIENCE}
    return TrialSpec(**values)


class TrialReport:
    """What the simulations of a trial say about a simulator."""

    def __init__(self, trial: TrialSpec) -> None:
        self.trial = trial
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.rows: list[Rows] = []  # that have outputs
        self.schema: Schema | None = None
        self.deterministic: bool | None = None
        self.noisy: bool | None = None
        self._first: Rows | None = None

    def add(self, attempt: Attempt) -> None:
        """Look at what came of one key."""
        edge = attempt.key >= EDGES
        bad = self.notes if edge else self.problems
        name, rows = self.trial.simulator.name, attempt.rows
        self.notes += attempt.notes
        if rows is None:
            bad.append(f"simulator {name!r} {_where(attempt.key)} {attempt.end}")
            return
        if rows.failures:
            bad.append(self._failure(attempt.key, rows))
        if rows.x:
            self._fit(attempt.key, rows)
            self.rows.append(rows)
        if attempt.key == 0 and self._first is not None:
            self.deterministic = _equal(self._first, rows)
        elif attempt.key == 0:
            self._first = rows
        elif attempt.key == NOISE and self._first is not None and rows.x:
            self.noisy = not _equal(self._first, rows)

    def _failure(self, key: int, rows: Rows) -> str:
        failure = rows.failures[0]
        row = int(np.flatnonzero(rows.ids == failure.id)[0])
        what = "failed: " if failure.outcome != Outcome.INVALID else ""
        return f"{_where(key)}: {what}{failure.message} at {self._named(rows.theta[row])}"

    def _named(self, theta: np.ndarray) -> str:
        pairs = list(zip(self.trial.simulator.prior.names, theta.tolist(), strict=True))
        shown = ", ".join(f"{name}={value:.6g}" for name, value in pairs[:MOST_NAMED])
        return shown if len(pairs) <= MOST_NAMED else f"{shown}, ... ({len(pairs)} parameters)"

    def _fit(self, key: int, rows: Rows) -> None:
        """Compare outputs with the first ones."""
        try:
            if self.schema is None:
                self.schema = schema_of(rows, self.trial.simulator.ragged)
            check_schema(rows, self.schema, self.trial.simulator.name)
        except UsageError as error:
            self.problems.append(f"{_where(key)}: {error}, at {self._named(rows.theta[0])}")

    def result(self, problems: list[str]) -> CheckResult:
        """Return what was found, beside `problems`."""
        notes = list(self.notes)
        if self.deterministic is False:
            problems.append("the same seed gave different outputs: use only the generator `rng`")
        if self.trial.simulator.observe is not None:
            observed, said = try_noise(self.trial, self.rows)
            problems += observed
            notes += said
        elif self.noisy is False:
            notes.append(
                "equal theta gave equal outputs for different seeds: no noise in this simulator"
            )
        if self.deterministic is None and self.rows:
            notes.append("a simulation takes so long that one alone was tried, at one place")
        theta = [rows.theta for rows in self.rows] or [np.zeros((0, 0))]
        return CheckResult(
            self._probe(),
            tuple(dict.fromkeys(problems)),
            tuple(notes),
            np.concatenate(theta)[:DRAWS],
            self.deterministic,
        )

    def _probe(self) -> Probe | None:
        """Return time and size of one simulation."""
        if not self.rows or self.schema is None:
            return None
        seconds = [float(rows.seconds.mean()) for rows in self.rows]
        size = statistics.mean(
            (rows.theta.nbytes + sum(value.nbytes for value in rows.x.values())) / len(rows)
            for rows in self.rows
        )
        shown = {
            name: (value.dtype.name, value.shape[1:]) for name, value in self.rows[0].x.items()
        }
        spread = statistics.pstdev(seconds) / max(statistics.mean(seconds), 1e-9)
        return Probe(
            statistics.median(seconds), FIXED_ROW_BYTES + round(size), shown, len(seconds), spread
        )


def _where(key: int) -> str:
    return "at the edge of the prior" if key >= EDGES else f"draw {0 if key == NOISE else key}"


def _equal(one: Rows, other: Rows) -> bool:
    return one.x.keys() == other.x.keys() and all(
        np.array_equal(value, other.x[name], equal_nan=value.dtype.kind in "fc")
        for name, value in one.x.items()
    )
