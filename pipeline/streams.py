"""The streams of random numbers, in one place: equal numbers would make draws depend on each other.

There are three roots. What belongs to the run follows from `seed`, by `numpy.random.SeedSequence` with a spawn key
that begins with a `RunStream`:

    (stream, key, 0 or 1)        prior draw and noise of a simulation, training or test
    (stream, 0)                  scrambling of the Sobol sequence of a stream
    (REFERENCE, i)               reference posterior for test simulation i
    (ABC, generation + 1, i)     particle i of ABC-SMC

    (part,)                      order of the rows of a prior that is a data set, in `simulators.data_prior`
    (stream, 3 or 4, 0, 0)       observation noise and augmentation of rows, in `pipeline.store.observation`

Spawn keys of different lengths give different numbers. `SPLIT` is not in a spawn key but the second word of the
seed. What an evaluation draws follows from `evaluate.seed`, and a training's random numbers from `seed` by
`pipeline.train.dataset.mix`, each with streams of their own.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, odd


class RunStream(IntEnum):
    """Random numbers that follow from `seed`."""

    TRAIN = 0
    TEST = 1
    REFERENCE = 2
    ABC = 2  # with keys of three numbers, REFERENCE with two
    SPLIT = 3  # of imported simulations into training and test
    LISTED = 4  # simulations at listed parameters, whose seed follows from where these come from


class EvaluationStream(IntEnum):
    """Random numbers that follow from `evaluate.seed`, with the spawn key (stream, first test simulation)."""

    POSTERIOR = 0
    PRIOR = 1


class TrainingStream(IntEnum):
    """Random numbers of an optimiser step, `mix(seed, TRAINING, step, rank)`, and of a validation."""

    TRAINING = 1
    VALIDATION = 2


class RowStream(IntEnum):
    """Random numbers that a row needs again and again; 0 would be its parameters, 1 its noise."""

    OBSERVATION = 3
    AUGMENTATION = 4


def splitmix64(words: np.ndarray) -> np.ndarray:
    """Return well mixed words of 64 bits, uint64 of shape (n,), one for each word.

    Reference: Fast splittable pseudorandom number generators (Steele, Lea and Flood 2014).
    """
    state = words.astype(np.uint64) + np.uint64(GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = state ^ (state >> np.uint64(31))
    return mixed
