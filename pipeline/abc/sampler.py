"""pyABC's sampler on the simulation actors: the same particles for any number of actors and any order.

Everything random about simulation i of generation t, the proposal included, follows from (seed, t, i). A
generation consists of the simulations up to the n-th accepted one in the order of i, not in the order in which
they finish, and is therefore a function of the seed. A simulation that fails or takes too long is a rejected
particle, and counted.
"""

from __future__ import annotations

import pickle
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyabc.sampler
import ray
from pyabc.population import Particle, Sample

from pipeline.abc.kept import Kept
from pipeline.abc.model import DRAW_ONLY, Drawn, SimulationFailed
from pipeline.abc.result import ParticleResult
from pipeline.errors import PipelineError, TooManyFailed
from pipeline.events import Recorder
from pipeline.progress import Progress
from pipeline.simulate.actor import SimulationActor
from pipeline.simulate.actor_pool import ActorPool, pickled
from pipeline.simulate.calls import CallResult, Worker
from pipeline.simulate.death import FAILED_STARTS, read_death
from pipeline.simulate.note import NOTHING, read_note
from pipeline.stop import Stop
from pipeline.store import Outcome
from pipeline.streams import RunStream

POLL = 0.2  # seconds
KEEP_SECONDS = 5.0  # between two times that simulations are written
CHECK_EVERY = 2.0  # seconds between two checks of Ray
TARGET = 0.2  # seconds that one block of work should take
LEAST = 50  # simulations before the share of failures means anything


def evaluate(
    actor: SimulationActor,
    block: int,
    ids: Sequence[int],
    seed: int,
    generation: int,
    work: bytes,
    rejected: bool,
) -> tuple[list[ParticleResult], float]:
    """Simulate a block within an actor; return whether each particle is accepted, and the seconds this took.

    Arguments:
        work: pyABC's pickled function without arguments that draws, simulates and accepts or rejects one particle.
        rejected: whether pyABC wants the rejected particles as well.
    """
    started = time.perf_counter()
    simulate_one = _unpickled(work)
    results = []
    actor._note.begin(block)
    for position, number in enumerate(ids):
        actor._note.running(position)
        _seed(seed, generation, number)
        began = time.perf_counter()
        try:
            particle = simulate_one()
        except SimulationFailed as error:
            took = time.perf_counter() - began
            results.append(ParticleResult(error.outcome, message=error.message, seconds=took))
            continue
        finally:
            actor._children.end()
        keep, took = (
            particle if rejected or particle.accepted else None,
            time.perf_counter() - began,
        )
        results.append(ParticleResult(Outcome.OK, bool(particle.accepted), keep, seconds=took))
    actor._note.rest()
    actor._note.idle()
    return results, time.perf_counter() - started


@lru_cache(maxsize=1)
def _unpickled(work: bytes) -> Callable[[], Particle]:
    return pickle.loads(work)


def _seed(seed: int, generation: int, number: int) -> None:
    """Seed the global generators, from which pyABC draws; generation -1 is its calibration."""
    key = (int(RunStream.ABC), generation + 1, int(number))
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(8)
    np.random.seed(words)
    random.seed(words.tobytes())


def drawn(
    simulate_one: Callable[[], Particle], seed: int, generation: int, number: int
) -> np.ndarray:
    """Return the parameters (D,) of a simulation without running it; the global generators are restored."""
    states, only = (np.random.get_state(), random.getstate()), DRAW_ONLY.set(True)
    try:
        _seed(seed, generation, number)
        simulate_one()
    except Drawn as found:
        return found.theta
    finally:
        DRAW_ONLY.reset(only)
        np.random.set_state(states[0])
        random.setstate(states[1])
    raise PipelineError("ABC's model drew no parameters")


class Generation:
    """The simulations of one generation: handed out and counted by their number."""

    def __init__(self, n: int, work: bytes, number: int, most: float) -> None:
        self.n, self.number, self.most = n, number, most
        self.work = ray.put(work)
        self.results: dict[int, ParticleResult] = {}
        self.accepted = 0  # among all results
        self.size = (
            0  # simulations before the first without result, at most up to the n-th accepted
        )
        self.in_order = 0  # accepted among those
        self._next = 0
        self._lost: deque[int] = deque()

    @property
    def complete(self) -> bool:
        return self.in_order == self.n

    @property
    def exhausted(self) -> bool:
        """Whether no simulations are left before the generation is complete."""
        return self.size >= self.most and not self.complete

    def take(self, most: int) -> list[int]:
        """Return the numbers to simulate next: lost ones first, none that cannot count any more."""
        if self._lost:
            return [self._lost.popleft() for _ in range(min(most, len(self._lost)))]
        if self.accepted >= self.n:
            return []
        numbers: list[int] = []
        while len(numbers) < most and self._next < self.most:
            if self._next not in self.results:
                numbers.append(self._next)
            self._next += 1
        return numbers

    def give_back(self, numbers: Sequence[int]) -> None:
        self._lost.extendleft(reversed(numbers))

    def add(self, numbers: Sequence[int], results: Sequence[ParticleResult]) -> None:
        for number, result in zip(numbers, results, strict=True):
            self.results[number] = result
            self.accepted += result.accepted
        while not self.complete and self.size in self.results:
            self.in_order += self.results[self.size].accepted
            self.size += 1

    def counted(self) -> list[ParticleResult]:
        """Return the results that count, in order."""
        return [self.results[number] for number in range(self.size)]


class ActorSampler(pyabc.sampler.Sampler):
    """Sample generations with a pool of actors.

    Arguments:
        pool: actors, with the time-out in their setup.
        seed: of everything random.
        alive: whether Ray still runs.
        stop: polled.
        most: simulations in all; a generation that needs more is abandoned.
        max_failed: share of simulations that may fail.
        kept: keeps the simulations; None: they are not kept.
        record: takes the events for the journal.
    """

    def __init__(
        self,
        pool: ActorPool,
        seed: int,
        alive: Callable[[], bool],
        stop: Stop,
        most: float,
        max_failed: float,
        kept: Kept | None = None,
        record: Recorder | None = None,
    ) -> None:
        super().__init__()
        self.kept, self.record = kept, record or (lambda event: None)
        self.pool, self.seed, self.alive, self._stopping = pool, seed, alive, stop
        self.most, self.max_failed = most, max_failed
        self.counts: list[Counter[Outcome]] = []  # by generation, calibration first
        self.failure = ""  # message of the last simulation that failed
        self._blocks: dict[int, list[int]] = {}
        self._next_block = 0
        self._deaths: Counter[int] = Counter()
        self._failed_starts = 0
        self._seconds = TARGET  # of one simulation, measured
        self._checked = time.monotonic()

    def sample_until_n_accepted(
        self, n: int, simulate_one: Callable[[], Particle], t: int, **_: Any
    ) -> Sample:
        """Return the sample of generation t, not `ok` if it is abandoned: too few simulations, or a stop."""
        spent = sum(count.total() for count in self.counts)
        generation = Generation(n, pickled(simulate_one), t, self.most - spent)
        self._blocks, self._deaths = {}, Counter()
        if self.kept is not None:
            known = self.kept.read(t)
            generation.add(list(known), list(known.values()))
        self._written = time.monotonic(), len(generation.results)
        sample: Sample = self._create_empty_sample()
        label = "accepted in the calibration" if t < 0 else f"accepted in generation {t}"
        with Progress("abc", n, label) as progress:
            while not (generation.complete or generation.exhausted or self._stopping.requested):
                self._hand_out(generation, sample.record_rejected or self.kept is not None)
                for answer in self.pool.collect(POLL):
                    self._receive(generation, answer)
                self._check(generation)
                self._keep(generation)
                progress.update(generation.in_order, f"{generation.size} simulations")
        self._keep(generation, last=True)
        if t < 0:  # no generation can follow
            self._stopping.check("abc")
        counted = generation.counted()
        done = generation.complete or generation.exhausted
        if self.kept is not None and done and any(result.particle for result in counted):
            self.kept.settle(t, counted, lambda number: drawn(simulate_one, self.seed, t, number))
        self.counts.append(Counter(result.outcome for result in counted))
        self.nr_evaluations_ = len(counted)
        for result in counted:
            if result.particle is not None and (result.accepted or sample.record_rejected):
                sample.append(result.particle)
        sample.ok = generation.complete
        return sample

    def _keep(self, generation: Generation, last: bool = False) -> None:
        """Keep the simulations of a generation and tell how far it is, from time to time and at its end."""
        then, count = self._written
        found = len(generation.results)
        if not last and time.monotonic() - then < KEEP_SECONDS:
            return
        if self.kept is not None and found != count:
            self.kept.write(generation.number, generation.results)
        self._written = time.monotonic(), found
        distances = [r.particle.distance for r in generation.counted() if r.accepted and r.particle]
        told: dict[str, Any] = {"generation": generation.number, "simulations": generation.size}
        told |= {"accepted": generation.in_order}
        if distances and generation.complete:
            told["farthest"] = max(distances)
            told["acceptance"] = generation.in_order / generation.size
        self.record({"event": "generation" if last else "simulating", **told})

    def _hand_out(self, generation: Generation, rejected: bool) -> None:
        """Keep every actor busy: two blocks each, unless simulations are slow."""
        depth = 2 if self._seconds < TARGET else 1
        for worker in self.pool.workers:
            while worker.started and len(worker.blocks) < depth:
                numbers = generation.take(self._size(generation))
                if not numbers:
                    return
                block, self._next_block = self._next_block, self._next_block + 1
                self._blocks[block] = numbers
                arguments = (numbers, self.seed, generation.number, generation.work, rejected)
                worker.send("__ray_call__", evaluate, block, *arguments, block=block)

    def _size(self, generation: Generation) -> int:
        """How many simulations a block has: 0.2 s of them, fewer when few acceptances are missing."""
        rate = max(generation.accepted, 1) / max(len(generation.results), 1)
        missing = (generation.n - generation.accepted) / rate
        fair = missing / (2 * len(self.pool.workers))
        return int(max(1, min(TARGET / max(self._seconds, 1e-6), fair)))

    def _receive(self, generation: Generation, answer: CallResult) -> None:
        block = answer.call.block
        if answer.lost:
            self._worker_lost(generation, answer.worker)
        elif block in self._blocks:  # not of an earlier generation
            numbers = self._blocks.pop(block)
            results, seconds = answer.result
            self._seconds = seconds / len(numbers)
            self._failed_starts = 0
            generation.add(numbers, results)
            for result in results:
                self.failure = result.message or self.failure

    def _worker_lost(self, generation: Generation, worker: Worker) -> None:
        """Give back the simulations of a dead actor; the one that ended it is rejected or tried again."""
        self._failed_starts += 1
        if self._failed_starts > FAILED_STARTS:
            raise PipelineError(f"{FAILED_STARTS} workers in a row died before they gave an answer")
        note = read_note(self.pool.note(worker))
        for block in worker.blocks:
            numbers = self._blocks.pop(block, [])
            if block == note.block and note.position != NOTHING and numbers:
                culprit = numbers[note.position]
                death, _ = read_death(self.pool.note(worker))
                self._deaths[culprit] += 1
                outcome = death.outcome(self._deaths[culprit])
                if outcome is not None:
                    late = outcome is Outcome.TIMEOUT
                    message = "no result in time" if late else death.value
                    generation.add([culprit], [ParticleResult(outcome, message=message)])
                numbers = [number for number in numbers if number not in generation.results]
            generation.give_back(numbers)

    def _check(self, generation: Generation) -> None:
        """Fail rather than run for ever when Ray has died or most simulations fail."""
        if time.monotonic() - self._checked > CHECK_EVERY:
            self._checked = time.monotonic()
            if not self.alive():
                raise PipelineError("Ray died: repeat the run")
        bad = sum(result.outcome != Outcome.OK for result in generation.results.values())
        if bad >= LEAST and bad > self.max_failed * len(generation.results):
            raise TooManyFailed(
                f"{bad} of {len(generation.results)} simulations are not ok, more than "
                f"max_failed={self.max_failed:g}; the last one: {self.failure}"
            )
