"""pyABC's map over our simulation actors: the same particles for any number of actors and any order.

Everything random about simulation i of generation t, the proposal included, follows from (seed, t, i). A
generation consists of the simulations up to the n-th accepted one in the order of i, whoever came first, and
is therefore a function of the seed. A simulation that fails or is late is a rejected particle, and counted.
"""

from __future__ import annotations

import pickle
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyabc.sampler
import ray
from pyabc.population import Particle, Sample

from pipeline.abc.model import SimulationFailed
from pipeline.errors import PipelineError, TooManyFailed
from pipeline.progress import Progress
from pipeline.simulation.actor import SimulationActor
from pipeline.simulation.calls import Answer, Worker
from pipeline.simulation.crew import Crew, pickled
from pipeline.simulation.note import NOTHING, Death, read_death, read_note
from pipeline.simulation.session import CRASHES, KILLS, STILLBORN
from pipeline.stop import Stop
from pipeline.store import Outcome

STREAM = 2  # beside those of training and test simulations
POLL = 0.2  # seconds
LOOK = 2.0  # seconds between two looks at Ray's health
TARGET = 0.2  # seconds that one unit of work should take
LEAST = 50  # simulations before the share of failures means anything


@dataclass(frozen=True)
class Judged:
    """What became of one simulation; `particle` is None unless pyABC has a use for it."""

    outcome: Outcome
    accepted: bool = False
    particle: Particle | None = None
    message: str = ""


def evaluate(
    actor: SimulationActor,
    unit: int,
    ids: Sequence[int],
    seed: int,
    generation: int,
    work: bytes,
    rejected: bool,
) -> tuple[list[Judged], float]:
    """Simulate and judge a unit within an actor; returns the verdicts and the seconds this took.

    Args:
        work: pyABC's pickled function without arguments that draws, simulates and judges one particle.
        rejected: whether pyABC wants the rejected particles as well.
    """
    started = time.perf_counter()
    simulate_one = _unpickled(work)
    verdicts = []
    actor._note.begin(unit)
    for position, number in enumerate(ids):
        actor._note.running(position)
        _seed(seed, generation, number)
        try:
            particle = simulate_one()
        except SimulationFailed as error:
            verdicts.append(Judged(error.outcome, message=error.message))
            continue
        keep = particle if rejected or particle.accepted else None
        verdicts.append(Judged(Outcome.OK, bool(particle.accepted), keep))
    actor._note.rest()
    actor._note.idle()
    return verdicts, time.perf_counter() - started


@lru_cache(maxsize=1)
def _unpickled(work: bytes) -> Callable[[], Particle]:
    return pickle.loads(work)


def _seed(seed: int, generation: int, number: int) -> None:
    """Seed the global generators, from which pyABC draws; generation -1 is its calibration."""
    key = (STREAM, generation + 1, int(number))
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(8)
    np.random.seed(words)
    random.seed(words.tobytes())


class Generation:
    """The simulations of one generation: handed out by number, counted in their order."""

    def __init__(self, n: int, work: bytes, number: int, most: float) -> None:
        self.n, self.number, self.most = n, number, most
        self.work = ray.put(work)
        self.judged: dict[int, Judged] = {}
        self.accepted = 0  # in any order
        self.size = (
            0  # simulations up to the first one that is not judged, at most to the n-th accepted
        )
        self.in_order = 0  # accepted among them
        self._next = 0
        self._lost: deque[int] = deque()

    @property
    def complete(self) -> bool:
        return self.in_order == self.n

    @property
    def exhausted(self) -> bool:
        """Whether the simulations do not suffice."""
        return self.size >= self.most and not self.complete

    def take(self, most: int) -> list[int]:
        """Hand out numbers: lost ones first, none that cannot count any more."""
        if self._lost:
            return [self._lost.popleft() for _ in range(min(most, len(self._lost)))]
        if self.accepted >= self.n:
            return []
        first, self._next = self._next, int(min(self._next + most, self.most))
        return list(range(first, self._next))

    def give_back(self, numbers: Sequence[int]) -> None:
        self._lost.extendleft(reversed(numbers))

    def add(self, numbers: Sequence[int], verdicts: Sequence[Judged]) -> None:
        for number, verdict in zip(numbers, verdicts, strict=True):
            self.judged[number] = verdict
            self.accepted += verdict.accepted
        while not self.complete and self.size in self.judged:
            self.in_order += self.judged[self.size].accepted
            self.size += 1

    def counted(self) -> list[Judged]:
        """Return the verdicts that count, in order."""
        return [self.judged[number] for number in range(self.size)]


class ActorSampler(pyabc.sampler.Sampler):
    """Sample generations with a crew of actors.

    Args:
        crew: actors, whose job's simulation has the time-out.
        seed: of everything random.
        alive: whether Ray still runs.
        stop: polled.
        most: simulations in all; a generation that would need more is given up.
        max_failed: share of simulations that may fail.
    """

    def __init__(
        self,
        crew: Crew,
        seed: int,
        alive: Callable[[], bool],
        stop: Stop,
        most: float,
        max_failed: float,
    ) -> None:
        super().__init__()
        self.crew, self.seed, self.alive, self._stopping = crew, seed, alive, stop
        self.most, self.max_failed = most, max_failed
        self.counts: list[Counter[Outcome]] = []  # by generation, calibration first
        self.failure = ""  # the last message of a failed simulation
        self._units: dict[int, list[int]] = {}
        self._next_unit = 0
        self._deaths: Counter[int] = Counter()
        self._stillborn = 0
        self._seconds = TARGET  # of one simulation, as far as known
        self._looked = time.monotonic()

    def sample_until_n_accepted(
        self, n: int, simulate_one: Callable[[], Particle], t: int, **_: Any
    ) -> Sample:
        """Return the sample of generation t, not `ok` if it is given up: too few simulations, or a stop."""
        spent = sum(count.total() for count in self.counts)
        generation = Generation(n, pickled(simulate_one), t, self.most - spent)
        self._units, self._deaths = {}, Counter()
        sample: Sample = self._create_empty_sample()
        label = "accepted in the calibration" if t < 0 else f"accepted in generation {t}"
        with Progress("abc", n, label) as progress:
            while not (generation.complete or generation.exhausted or self._stopping.requested):
                self._feed(generation, sample.record_rejected)
                for answer in self.crew.collect(POLL):
                    self._take(generation, answer)
                self._look(generation)
                progress.update(generation.in_order, f"{generation.size} simulations")
        if t < 0:  # without a calibration there is nothing to go on with
            self._stopping.check("abc")
        counted = generation.counted()
        self.counts.append(Counter(verdict.outcome for verdict in counted))
        self.nr_evaluations_ = len(counted)
        for verdict in counted:
            if verdict.particle is not None:
                sample.append(verdict.particle)
        sample.ok = generation.complete
        return sample

    def _feed(self, generation: Generation, rejected: bool) -> None:
        """Keep every actor busy: two units each, unless simulations are slow."""
        depth = 2 if self._seconds < TARGET else 1
        for worker in self.crew.workers:
            while worker.started and len(worker.units) < depth:
                numbers = generation.take(self._size(generation))
                if not numbers:
                    return
                unit, self._next_unit = self._next_unit, self._next_unit + 1
                self._units[unit] = numbers
                arguments = (numbers, self.seed, generation.number, generation.work, rejected)
                worker.send("__ray_call__", evaluate, unit, *arguments, unit=unit)

    def _size(self, generation: Generation) -> int:
        """How many simulations a unit has: 0.2 s of them, fewer when few acceptances are missing."""
        rate = max(generation.accepted, 1) / max(len(generation.judged), 1)
        missing = (generation.n - generation.accepted) / rate
        fair = missing / (2 * len(self.crew.workers))
        return int(max(1, min(TARGET / max(self._seconds, 1e-6), fair)))

    def _take(self, generation: Generation, answer: Answer) -> None:
        unit = answer.call.unit
        if answer.lost:
            self._bury(generation, answer.worker)
        elif unit in self._units:  # not of an earlier generation
            numbers = self._units.pop(unit)
            verdicts, seconds = answer.result
            self._seconds = seconds / len(numbers)
            self._stillborn = 0
            generation.add(numbers, verdicts)
            for verdict in verdicts:
                self.failure = verdict.message or self.failure

    def _bury(self, generation: Generation, worker: Worker) -> None:
        """Give back what a dead actor had; the simulation that ended it is rejected or tried again."""
        self._stillborn += 1
        if self._stillborn > STILLBORN:
            raise PipelineError(f"{STILLBORN} workers in a row died before they gave an answer")
        note = read_note(self.crew.note(worker))
        for unit in worker.units:
            numbers = self._units.pop(unit, [])
            if unit == note.unit and note.position != NOTHING and numbers:
                guilty = numbers[note.position]
                death, _ = read_death(self.crew.note(worker))
                self._deaths[guilty] += 1
                if death is Death.TIMEOUT:
                    generation.add([guilty], [Judged(Outcome.TIMEOUT, message="no result in time")])
                elif self._deaths[guilty] >= (CRASHES if death is Death.CRASH else KILLS):
                    generation.add([guilty], [Judged(Outcome.FAILED, message=death.value)])
                numbers = [number for number in numbers if number not in generation.judged]
            generation.give_back(numbers)

    def _look(self, generation: Generation) -> None:
        """Fail rather than go on for ever: without Ray, or without simulations that work."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            if not self.alive():
                raise PipelineError("Ray died: repeat the run")
        bad = sum(verdict.outcome != Outcome.OK for verdict in generation.judged.values())
        if bad >= LEAST and bad > self.max_failed * len(generation.judged):
            raise TooManyFailed(
                f"{bad} of {len(generation.judged)} simulations are not ok, more than "
                f"max_failed={self.max_failed:g}; the last one: {self.failure}"
            )
