"""Training on draws of the prior and the simulations of an ABC run together, weighted by their proposals.

    w_i = p(theta_i) / sum_g (n_g / N) q_g(theta_i)

q_g is the prior for the training simulations of the run and the proposal of its generation for those of ABC. With
these weights all N rows follow the prior, so that the network still learns the posterior for every observation;
most rows lie where the posterior of ABC's observation has its mass. A weight is at most N / n_0 with n_0 draws of
the prior.

Reference: Adaptive multiple importance sampling (Cornuet, Marin, Mira and Robert 2012, Scand. J. Stat. 39).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.abc.kept import Kept
from pipeline.abc.proposal import mixture_log_prob
from pipeline.config import Config, simulator_of
from pipeline.errors import UsageError
from pipeline.imported.stage import Pairs
from pipeline.progress import log
from pipeline.refine.rows import joined, read_part, trained
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import Store
from pipeline.store.observation import PROPOSAL


@dataclass(frozen=True)
class WeightedTraining:
    """A training on rows of the prior and of ABC.

    Attributes:
        run: of these rows.
        rows: how many.
        posterior: what came of it.
    """

    run: RunDirectory
    rows: int
    posterior: Any


def weighted_pairs(config: Config, run: RunDirectory, key: str) -> Pairs:
    """Return the training simulations of a run and those of one of its ABC runs, with `proposal_log_prob`.

    Arguments:
        config: of the run; its budget counts.
        run: the run directory.
        key: of the ABC run.

    Raises:
        UsageError: the ABC run keeps no simulations, as those of earlier versions.
    """
    simulator = simulator_of(config)
    kept = Kept.of(run.abc(key), simulator)
    generations = kept.generations()
    if not generations:
        raise UsageError(f"{run.abc(key)} keeps no rows in a store: repeat `sbiflow abc` first")
    parts = [read_part(Store.open(kept.stored.path), None, simulator)]
    proposals = [(rows, kept.proposal(number)) for number, _, rows in generations]
    if (run.store("train") / "store.json").exists():
        store = Store.open(run.store("train"))
        parts.insert(0, read_part(store, config.budget, simulator))
        proposals.append((store.counts(config.budget)["done"], None))
    pairs = joined([part for part in parts if len(part.theta)], simulator.prior)
    log_q = mixture_log_prob(proposals, kept.prior, pairs.theta)
    return Pairs(pairs.names, pairs.theta, pairs.x | {PROPOSAL: log_q}, pairs.lengths, pairs.prior)


def train_weighted(
    config: Config, run: RunDirectory, key: str, stop: Stop, **train: Any
) -> WeightedTraining:
    """Train on the rows of the prior and of an ABC run, as a run of its own in the folder of the ABC run.

    Arguments:
        config, run, key: as for `weighted_pairs`.
        stop: request to leave.
        train: settings of the training that are others than the run's.

    Raises:
        UsageError: the ABC run keeps no simulations.
        Stopped: a stop was requested.
    """
    pairs = weighted_pairs(config, run, key)
    rows = len(pairs.theta)
    log(f"abc: trains on {rows} rows of the prior and of {key}, weighted by their proposals")
    own = RunDirectory(run.abc(key) / f"run-{rows}")
    return WeightedTraining(own, rows, trained(config, own, pairs, stop, **train))
