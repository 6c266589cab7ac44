"""Refinement: rounds of simulations where the posterior for an observation has its mass, each with a training.

    refined/DIGEST/round_R/
        round.json        the region, the share of the prior in it, what it follows from; sealed
        parameters.npz    the parameters of the round's simulations; more are added when the total grows
        density/          the flow that gives the region, where the posterior has no density
        store/            the simulations of the round
        run-ROWS/         a run of the rows inside, of all rounds: its training is the round's posterior

Every file follows from the ones before. A kill at any time loses what is in flight; a repeat continues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import estimators
from pipeline.answer.stage import Question, digest
from pipeline.config import IMPORTED
from pipeline.errors import UsageError
from pipeline.files import canonical_text, read_arrays, write_arrays, write_document
from pipeline.imported.stage import Pairs
from pipeline.infer.observation import Observed
from pipeline.progress import log
from pipeline.refine.region import DRAWS, Region, contained, truncated
from pipeline.refine.rows import joined, read_part, trained
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory
from pipeline.simulate.stage import simulate_target
from pipeline.simulate.target import Target, listed
from pipeline.stop import Stop
from pipeline.store import Store

LEVEL = 1e-3  # share of the posterior that a round leaves out
ROUNDS = 2
FOLDER = "refined"
UPDATES = 1500  # optimiser steps of a flow that stands for a posterior without density


@dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
        folder: of the round.
        run: of the rows inside, with the training of the round.
        regions: of this round and of all before.
        share: of the prior that lies in them.
        digest: of the round's simulations.
        simulations: of this round.
        rows: of all rounds that the training used.
        posterior: what came of it.
    """

    folder: Path
    run: RunDirectory
    regions: list[Region]
    share: float
    digest: str
    simulations: int
    rows: int
    posterior: Any


@dataclass(frozen=True)
class Refinement:
    """What is refined, and how.

    Arguments:
        question: the run, the training to begin with, and the seed.
        simulations: of all rounds together, a total.
        rounds: how many.
        level: share of the posterior that a round leaves out.
    """

    question: Question
    simulations: int
    rounds: int = ROUNDS
    level: float = LEVEL


def refine(asked: Refinement, observation: Any, stop: Stop) -> list[Round]:
    """Simulate and train for an observation, or for the union of several, round by round.

    Arguments:
        asked: what is refined, and how.
        observation: outputs of one or of several observations.
        stop: a request leaves with everything finished kept; a repeat continues.

    Raises:
        UsageError: an observation that does not fit, imported simulations, a total too small for the rounds, or a
            region too small to draw from.
        Stopped: a stop was requested.
    """
    question = asked.question
    if question.config.simulator.name == IMPORTED:
        raise UsageError("refine: the simulations of this run were imported, there is no simulator")
    if asked.rounds < 1 or asked.simulations < 10 * asked.rounds:
        raise UsageError(
            f"--simulations {asked.simulations} --rounds {asked.rounds}: at least 10 in each round are valid"
        )
    observed = Observed.of(question.posterior.x_shapes, observation)
    place = question.run.path / FOLDER / digest(observed.outputs)[:12]
    done: list[Round] = []
    for number in range(1, asked.rounds + 1):
        stop.check("refine")
        count = asked.simulations // asked.rounds
        count += number == asked.rounds and asked.simulations % asked.rounds
        done.append(_round(asked, observed, place / f"round_{number}", done, count, stop))
    return done


def _round(
    asked: Refinement, observed: Observed, folder: Path, done: list[Round], count: int, stop: Stop
) -> Round:
    question = asked.question
    posterior = done[-1].posterior if done else question.posterior
    origin = {
        "weights": _weights(done[-1].run) if done else _weights(question.run, question.key),
        "observation": digest(observed.outputs),
        "level": asked.level,
        "round": len(done) + 1,
        "seed": question.seed,
    }
    folder = folder.with_name(f"{folder.name}-{_hash(origin)[:8]}")
    regions = [*(done[-1].regions if done else ()), _region(asked, observed, folder, posterior)]
    theta, share = _parameters(question, folder, regions, origin, count)
    write_document(folder / "round.json", {**origin, "share": share, "simulations": count})
    log(f"refine: round {len(done) + 1}, {count} simulations in {share:.3g} of the prior")
    spec = listed(question.config, question.simulator, theta, origin, grows=True)
    target = Target("round", spec, folder / "store", count)
    simulate_target(question.config, question.run, target, stop=stop)
    store = Store.open(target.path).snapshot()
    stop.check("refine")
    earlier = [(Store.open(one.folder / "store"), one.simulations) for one in done]
    pairs = _rows(question, [*earlier, (store, count)], regions)
    run = RunDirectory(folder / f"run-{len(pairs.theta)}")
    # rows follow the truncated prior
    posterior = trained(question.config, run, pairs, stop, prior_weights=False)
    rows = len(pairs.theta)
    return Round(folder, run, regions, share, store.digest(count), count, rows, posterior)


def _weights(run: RunDirectory, key: str | None = None) -> str | None:
    """Return the checksum of the posterior that a round begins with."""
    return Results(run, key or latest_training(run)).weights_digest()


def _region(asked: Refinement, observed: Observed, folder: Path, posterior: Any) -> Region:
    """Return the region of a posterior; where it has no density, a flow is fitted once and kept."""
    question, x = asked.question, observed.x
    draws = posterior.sample(
        x, DRAWS, seed=question.seed, sampling_steps=_steps(question, posterior)
    )
    density = posterior
    if not (posterior.module.has_log_prob and posterior.module.transform.bijective):
        place = folder / "density"
        if not (place / "posterior.json").exists():
            log("refine: fits a flow to the posterior's draws, for its density")
            made = estimators.distil(
                posterior, x, sampling_steps=_steps(question, posterior),
                arguments={"transforms": 3}, updates=UPDATES, seed=question.seed,
            )  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
            estimators.save(place, made.module, {})
        density = estimators.load(place)
        draws = density.sample(x, DRAWS, seed=question.seed)
    array = draws.cpu().numpy().astype(float)
    return Region.of(density, array, x, question.simulator.prior, asked.level)


def _steps(question: Question, posterior: Any) -> int | None:
    return None if posterior.sampling_steps is None else question.sampling_steps


def _parameters(
    question: Question, folder: Path, regions: list[Region], origin: Mapping[str, Any], count: int
) -> tuple[np.ndarray, float]:
    """Return at least so many parameters, whole blocks of them, and the share of the prior in the region.

    They are drawn once and kept: a region that another machine rounds otherwise changes none.
    """
    path, block = folder / "parameters.npz", question.config.simulate.block
    size = count if not question.simulator.batched else -(-count // block) * block
    kept = read_arrays(path) if path.exists() else None
    if kept is not None and len(kept["theta"]) >= size:
        return kept["theta"], float(kept["share"])
    theta, share = truncated(question.simulator.prior, regions, size, int(_hash(origin)[:15], 16))
    if kept is not None:
        theta = np.concatenate([kept["theta"], theta[len(kept["theta"]) :]])
    write_arrays(path, {"theta": theta, "share": np.array(share)})
    return theta, share


def _rows(question: Question, stores: list[tuple[Store, int]], regions: list[Region]) -> Pairs:
    """Return the rows inside, of the run's training simulations and of all rounds."""
    simulator, budget = question.simulator, int(question.posterior.provenance["budget"])
    parts = [(Store.open(question.run.store("train")), budget), *stores]
    found = [read_part(store, most, simulator) for store, most in parts]
    inside = [part.take(contained(regions, part.theta)) for part in found]
    return joined(inside, simulator.prior)


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_text(dict(values)).encode()).hexdigest()
