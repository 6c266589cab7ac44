"""The CMPE paper's two moons: its training, its choices one at a time, C2ST by its definition and sbibm's.

Training: Adam at 5e-4, a cosine to 0 over 5000 epochs of batches of 64, gradients clipped at 1, no moving
average. Test: 100 simulations from the prior predictive. C2ST by the paper's definition (4000 draws,
reference without the prior's truncation) and by sbibm's (1000 draws, exact reference), with the
standard error over the test sets; the rows of a training are the first of 8192, as in the paper.

    python -m benchmarks.paper --budget 1024 --protocol as_coded --seed 0
    python -m benchmarks.paper --set huber_norm=vector --set s1=100
    python -m benchmarks.paper --table        every correction by itself, and other choices

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import estimators
import simulators
from benchmarks import fit
from benchmarks.paper import NAME
from benchmarks.paper.cmpe_paper import CMPEPaper
from benchmarks.paper.protocol import PROTOCOLS
from estimators.registry import build
from evaluation.c2st import PAPER, SBIBM, C2STDefinition, c2st_batch
from evaluation.score import Scores
from pipeline.train.hyperparameters import Hyperparameters

ROWS, HELD_OUT, TESTS = 8192, 512, 100
BATCH, EPOCHS, RATE, CLIP = 64, 5000, 5e-4, 1.0
DRAWS = {PAPER: (4000, "untruncated"), SBIBM: (1000, "exact")}
DRAWING = {
    "bounds",
    "dropout_always",
    "start",
    "steps",
    "visit_epsilon",
}  # of no account in training
ALTERNATIVES: dict[str, dict[str, Any]] = {  # choices that are the paper's own, made otherwise
    "dropout=0": {"dropout": 0.0},
    "scale_input, log_fourier": {"scale_input": True, "time_input": "log_fourier"},
    "standardised": {"standardise_theta": True, "standardise_x": True},
    "p_mean=-3": {"p_mean": -3.0},
}


class TaskRows:
    """The simulations: training rows, rows for watching the loss, and test sets with references."""

    def __init__(self, tests: int = TESTS, seed: int = 0) -> None:
        self.simulator = simulators.load("two_moons")
        self.theta, self.x = self._draw(ROWS, seed, 0)
        self.held_out = fit.batch(*self._draw(HELD_OUT, seed, 1))
        _, self.observed = self._draw(tests, seed, 2)
        self.seed = seed

    def _draw(self, n: int, *key: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng = np.random.default_rng(key)
        theta = self.simulator.prior.sample(rng, n)
        return theta, self.simulator.simulate_block(theta, rng)

    def references(self, definition: C2STDefinition) -> np.ndarray:
        """Return reference draws of every test set, (tests, n, 2)."""
        n, name = DRAWS[definition]
        rng = np.random.default_rng((self.seed, 3, n))
        sets = [{"x": x} for x in self.observed["x"]]
        return np.stack([self.simulator.reference(x, n, rng, name) for x in sets])


def train(
    rows: TaskRows, budget: int, steps: int | None, seed: int, arguments: Mapping[str, Any]
) -> tuple[estimators.Estimator, dict[str, Any]]:
    """Return the trained estimator, and how it went.

    Arguments:
        budget: training rows, the first of `rows`.
        steps: none: those of 5000 epochs.
        seed: of weights, batches and noise.
        arguments: of `CMPEPaper`; the counter's ticks broadcast from the budget.
    """
    epoch = math.ceil(budget / BATCH)
    arguments = dict(arguments)
    if arguments["protocol"] == "as_coded":
        arguments.setdefault("validation_ticks", 1 / epoch)
    theta, x = rows.theta[:budget], {"x": rows.x["x"][:budget]}
    prior = rows.simulator.prior
    torch.manual_seed(seed)
    model = estimators.create(
        NAME, theta, x, low=prior.low, high=prior.high, names=prior.names, **arguments
    )
    assert isinstance(model, CMPEPaper)
    steps = EPOCHS * epoch if steps is None else steps
    hyperparameters = Hyperparameters(
        steps=steps,
        learning_rate=RATE,
        weight_decay=0.0,
        warmup=0.0,
        clip=CLIP,
        ema=0.0,
        validate_every=max(1, steps // 20),
        patience=None,
        amp=False,
        seed=seed,
    )
    validation, seconds = fit.train(
        model, hyperparameters, fit.batch(theta, x), rows.held_out, min(BATCH, budget)
    )
    told = {
        "steps": steps,
        "processor_seconds": round(seconds, 1),
        "step_ms": round(1e3 * seconds / steps, 3),
        "validation_loss": validation,
        "s^2": [round(value, 4) for value in model.variance.tolist()],
        "s": [round(value, 4) for value in model.spread.tolist()],
    }
    return model, told


def score(
    rows: TaskRows, model: estimators.Estimator, passes: int, definition: C2STDefinition
) -> dict[str, float]:
    """Return the mean C2ST over the test sets and its standard error."""
    n, _ = DRAWS[definition]
    draws = (
        model.posterior()
        .sample(rows.observed, n, sampling_steps=passes, seed=passes)
        .double()
        .numpy()
    )
    values = c2st_batch(rows.references(definition), draws, definition=definition)
    scores = Scores.of(definition.sentence, values)
    return {"c2st": round(scores.mean, 4), "se": round(scores.sem, 4)}


def measure(
    rows: TaskRows,
    budget: int,
    steps: int | None,
    seed: int,
    passes: list[int],
    table: Mapping[str, Mapping[str, Any]],
    save: Path | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train every row of a table, and yield its name and C2ST by both definitions.

    Rows that differ in nothing but how draws are made share a training.

    Arguments:
        passes: network passes for a draw.
        table: name -> arguments.
        save: folder for the posteriors.
    """
    trained: dict[str, tuple[estimators.Estimator, dict[str, Any]]] = {}
    for name, arguments in table.items():
        key = repr({k: value for k, value in arguments.items() if k not in DRAWING})
        if key not in trained:
            print(f"\n{name}", file=sys.stderr)
            trained[key] = train(rows, budget, steps, seed, arguments)
        model, told = trained[key]
        model = redrawn(model, arguments)
        if save:
            estimators.save(save / name, model, {"budget": budget, "seed": seed, **told})
        result = {
            "budget": budget,
            "seed": seed,
            "tests": len(rows.observed["x"]),
            "choices": dict(arguments),
            **told,
            "paper": {str(k): score(rows, model, k, PAPER) for k in passes},
            "sbibm": {str(k): score(rows, model, k, SBIBM) for k in passes},
        }
        yield name, result


def redrawn(model: estimators.Estimator, arguments: Mapping[str, Any]) -> estimators.Estimator:
    """Return an estimator with the weights of another, and its own choices of how to draw."""
    chosen = {name: value for name, value in arguments.items() if name in DRAWING}
    other = build(model.name, model.problem, {**model.arguments, **chosen})
    other.load_state_dict(model.state_dict())
    return other


def one_at_a_time() -> dict[str, dict[str, Any]]:
    """Return the rows of the table: name -> arguments."""
    coded, corrected = asdict(PROTOCOLS["as_coded"]), asdict(PROTOCOLS["corrected"])
    rows: dict[str, dict[str, Any]] = {"as_coded": {}}
    rows |= {f"{name}={value}": {name: value} for name, value in corrected.items()}
    rows |= {"corrected": {"protocol": "corrected"}, **ALTERNATIVES}
    assert all(coded[name] != value for name, value in corrected.items())
    return {name: {"protocol": "as_coded", **given} for name, given in rows.items()}


def _choice(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or name not in estimators.arguments(NAME):
        valid = ", ".join(estimators.arguments(NAME))
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE; names: {valid}")
    return name, yaml.safe_load(value)


def main() -> None:
    """Print one JSON object; with --table one for each of its rows, then all of them in one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="as_coded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", type=_choice, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--steps", type=int, help="of training, in place of 5000 epochs")
    parser.add_argument("--passes", type=int, nargs="+", default=[2, 10, 30])
    parser.add_argument("--tests", type=int, default=TESTS, help="test sets")
    parser.add_argument("--save", type=Path, help="folder for the posteriors")
    parser.add_argument("--table", action="store_true", help="one choice at a time")
    parser.add_argument("--only", nargs="+", help="rows of the table")
    given = parser.parse_args()
    if not BATCH <= given.budget <= ROWS:
        parser.error(f"--budget {given.budget}; valid: {BATCH} to {ROWS}")
    torch.set_num_threads(1)
    rows = TaskRows(given.tests)
    own = {"protocol": given.protocol, **dict(given.set)}
    table = one_at_a_time() if given.table else {given.protocol: own}
    unknown = sorted(set(given.only or ()) - set(table))
    if unknown:
        parser.error(f"--only {unknown}; valid: {', '.join(table)}")
    table = {name: row for name, row in table.items() if name in (given.only or table)}
    results = {}
    for name, result in measure(
        rows, given.budget, given.steps, given.seed, given.passes, table, given.save
    ):
        results[name] = result
        if given.table:
            print(json.dumps({name: result}), flush=True)
    print(json.dumps(results if given.table else results[given.protocol]))


if __name__ == "__main__":
    main()
