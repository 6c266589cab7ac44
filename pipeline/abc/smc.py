"""ABC-SMC for any simulator: weighted draws from an approximate posterior, without any network."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyabc

import cluster
from pipeline.abc.kept import Kept
from pipeline.abc.model import AbcModel, AbcPrior
from pipeline.abc.proposal import Proposal, ProposedAcceptor, ProposedPrior
from pipeline.abc.sampler import ActorSampler
from pipeline.abc.stored import StoredRows
from pipeline.errors import Stopped, UsageError
from pipeline.events import Recorder
from pipeline.simulate.actor_pool import ActorPool, pickled
from pipeline.simulate.scratch import notes_folder
from pipeline.simulate.setup import worker_setup
from pipeline.simulate.spec import SimulationSpec
from pipeline.stop import Stop
from pipeline.store import Outcome
from pipeline.streams import RunStream

Outputs = Mapping[str, np.ndarray]
Distance = Callable[[Outputs, Outputs], float]


@dataclass(frozen=True)
class AbcResult:
    """The last generation of draws, and the number of simulations.

    Attributes:
        names: of the D parameters.
        theta: draws (n, D), in natural units.
        weight: of each draw (n,), sum 1.
        distance: of each draw to the observation, (n,).
        epsilon: largest distance accepted in each generation, (T,).
        simulations: number of simulations by outcome, calibration included.
    """

    names: tuple[str, ...]
    theta: np.ndarray
    weight: np.ndarray
    distance: np.ndarray
    epsilon: np.ndarray
    simulations: dict[str, int]

    def quantile(self, q: float | np.ndarray) -> np.ndarray:
        """Return quantiles of the weighted draws, shape (..., D) for q (...)."""
        columns = []
        for values in self.theta.T:
            order = np.argsort(values)
            at = np.cumsum(self.weight[order]) - 0.5 * self.weight[order]
            columns.append(np.interp(q, at, values[order]))
        return np.stack(columns, axis=-1)

    def resample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return n draws of equal weight, with repetitions, shape (n, D)."""
        return self.theta[rng.choice(len(self.theta), n, p=self.weight)]

    def save(self, path: Path) -> None:
        """Write everything to an npz file."""
        counts = {f"simulations_{name}": number for name, number in self.simulations.items()}
        np.savez(
            path,
            names=np.array(self.names),
            theta=self.theta,
            weight=self.weight,
            distance=self.distance,
            epsilon=self.epsilon,
            **counts,  # type: ignore[arg-type]
        )


def standardised_squares(replicates: Outputs) -> Distance:
    """Return the distance that weighs each value by its variance over replicates.

        d(x, y) = sum_k sum_i (x_ki - y_ki)^2 / var_ki

    over outputs k and their values i; a value without variance does not count, and outputs of different lengths
    are compared up to the shortest. Up to a constant d is -2 log of a normal likelihood.

    Arguments:
        replicates: outputs of repeated simulations at one theta, each (replicates, ...).
    """
    weights = {}
    for name, values in replicates.items():
        variance = values.var(axis=0)
        weights[name] = np.divide(1.0, variance, out=np.zeros_like(variance), where=variance > 0)

    def distance(x: Outputs, y: Outputs) -> float:
        total = 0.0
        for name, weight in weights.items():
            n = min(len(x[name]), len(y[name]), len(weight))
            total += float((weight[:n] * (x[name][:n] - y[name][:n]) ** 2).sum())
        return total

    return distance


def abc_smc(
    simulator: Any,
    x: Outputs,
    folder: str | Path,
    *,
    distance: Distance | Any = None,
    population: int = 200,
    generations: int = 8,
    simulations: float = np.inf,
    seed: int = 0,
    workers: int | None = None,
    timeout: float | None = None,
    max_failed: float = 0.5,
    backend: str = "local",
    address: str | None = None,
    stop: Stop | None = None,
    proposal: np.ndarray | None = None,
    keep: Mapping[str, Any] | None = None,
    record: Recorder | None = None,
) -> AbcResult:
    """Run sequential Monte Carlo with a median epsilon schedule, on actors.

    The algorithm is pyABC's (pyABC: distributed, likelihood-free inference, 2018, Bioinformatics 34:3591); its
    normal kernel works on log theta for log-uniform and log-normal parameters. The result follows from the
    arguments and the seed for any number of workers, if no simulation reaches its time-out.

    Arguments:
        simulator: of `simulators.load`.
        x: one observation, the simulator's outputs by name.
        folder: receives `abc.db`, pyABC's history (a further run is appended), and `draws.npz`.
        distance: d(x, y), or a `pyabc.Distance`; pyABC's adaptive Euclidean distance if none.
        population: draws per generation.
        generations: at most.
        simulations: at most; a generation that needs more is abandoned.
        seed: of everything random.
        workers: actors; as many as there are cores if none.
        timeout: seconds for one simulation.
        max_failed: share of simulations that may fail.
        backend: where Ray comes from, as in `cluster.connect`.
        address: of a running Ray, for backends that need one.
        stop: polled; a request raises `Stopped`, after the last complete generation was kept.
        proposal: posterior draws (m, D) around which the first generation is proposed; None: the prior.
        keep: identity of a store that takes all simulations, for a repeat; None: they are not kept.
        record: takes an event for each generation.

    Raises:
        UsageError: the observation is empty or not finite, the prior has no density, or `simulations` do not
            suffice for one generation, or parameters are discrete or add up to one.
        TooManyFailed: more than `max_failed` of the simulations failed.
        PipelineError: Ray died. What `distance` raises is passed on.
    """
    if not x or not all(np.isfinite(value).all() for value in x.values()):
        raise UsageError(f"the observation must be finite; it has {', '.join(x) or 'no outputs'}")
    if simulations < 2 * population:  # the calibration needs as many as a generation
        raise UsageError(
            f"simulations={simulations:g} are too few: population={population} needs {2 * population}"
        )
    if not simulator.prior.has_density:
        raise UsageError(f"ABC-SMC weights by log p(theta), and the prior is {simulator.prior}")
    check_continuous(simulator.prior)
    target, stopping = Path(folder), stop or Stop()
    logging.getLogger("ABC").setLevel(logging.WARNING)
    spec = SimulationSpec(simulator, seed, RunStream.ABC, 1, timeout)
    with notes_folder(target) as notes, cluster.connect(backend, address) as ray_cluster:
        setup = worker_setup(spec, pickled(spec), notes)
        pool = ActorPool(setup, workers or max(1, ray_cluster.capacity(1, None)), 1, None)
        prior = AbcPrior(simulator.prior)
        first = None if proposal is None else Proposal.of_draws(prior, proposal)
        kept = None
        if keep is not None:  # the history is made again from the simulations
            stored = StoredRows(target / "store", keep, frozenset(simulator.ragged))
            kept = Kept(target / "generations", prior, stored, first)
            (target / "abc.db").unlink(missing_ok=True)
        sampler = ActorSampler(
            pool, seed, ray_cluster.alive, stopping, simulations, max_failed, kept, record
        )
        smc = pyabc.ABCSMC(
            AbcModel(simulator, timeout),
            prior if first is None else ProposedPrior(first),
            distance if distance is not None else pyabc.AdaptivePNormDistance(p=2),
            population_size=population,
            sampler=sampler,
            acceptor=None if first is None else ProposedAcceptor(first),
        )
        history = smc.new(f"sqlite:///{target.resolve() / 'abc.db'}", dict(x))
        history.stores_sum_stats = False  # simulations would fill the disk
        try:
            smc.run(max_nr_populations=generations)
        finally:
            pool.dismiss()
    if history.max_t < 0:
        stopping.check("abc")
        raise UsageError(
            f"simulations={simulations:g} are too few for a generation of {population}"
        )
    result = _result(simulator, history, sampler)
    result.save(target / "draws.npz")
    if stopping.requested:
        raise Stopped(f"abc stopped by {stopping.reason}; {target} holds the last generation")
    return result


def _result(simulator: Any, history: pyabc.History, sampler: ActorSampler) -> AbcResult:
    coordinates = AbcPrior(simulator.prior).coordinates
    particles = history.get_population()
    z = np.array(
        [[p.parameter[label] for label in coordinates.labels] for p in particles.particles]
    )
    weight = np.array([particle.weight for particle in particles.particles])
    epsilon = history.get_all_populations().query("t >= 0")["epsilon"].to_numpy(float)
    counts = sum(sampler.counts, Counter())
    return AbcResult(
        tuple(simulator.prior.names),
        coordinates.natural(z),
        weight / weight.sum(),
        np.array([particle.distance for particle in particles.particles]),
        epsilon,
        {outcome.name.lower(): counts[outcome] for outcome in Outcome},
    )


def check_continuous(prior: Any) -> None:
    """Refuse parameters that pyABC's normal kernels cannot move."""
    for name, kind in zip(prior.names, prior.kinds, strict=True):
        if kind != "continuous":
            raise UsageError(
                f"ABC-SMC moves continuous parameters, and {name!r} is {kind}: train the estimator "
                "`mixed`, or run one ABC for each value"
            )
    for group in prior.simplexes:
        names = ", ".join(prior.names[column] for column in group)
        raise UsageError(f"ABC-SMC moves parameters freely, and {names} add up to one")
