"""Random numbers: everything random about a simulation follows from (seed, stream, id).

The streams are those of `pipeline.streams.RunStream`.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from threading import get_ident
from typing import Any

import numpy as np

PRIOR, NOISE = 0, 1  # the two draws of one simulation
DESIGN = 0  # in spawn keys of two numbers
BITS = 32  # a Sobol sequence has 2^BITS points; with more scipy cannot skip any


def generators(seed: int, stream: int, key: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the generators of the prior draw and of the noise.

    `key` is the simulation's id, or the number of its block for a batched simulator:

        rng_k = PCG64(SeedSequence(seed, spawn_key=(stream, key, k))),  k = 0 (prior), 1 (noise)
    """
    return generator(seed, stream, key, PRIOR), generator(seed, stream, key, NOISE)


def generator(seed: int, stream: int, key: int, draw: int) -> np.random.Generator:
    """Return one of `generators`: that of the prior draw, `PRIOR`, or of the noise, `NOISE`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, key, draw))
    return np.random.Generator(np.random.PCG64(sequence))


def points(seed: int, stream: int, size: int, first: int, count: int) -> np.ndarray:
    """Return points of a scrambled Sobol sequence in the open unit cube, shape (count, size).

    Each point is uniform, and together they fill the cube more evenly than independent points. The point of an id
    follows from (seed, stream, size, id) alone.

    Sobol: On the distribution of points in a cube and the approximate evaluation of integrals (1967). Matousek:
    On the L2-discrepancy for anchored boxes (1998), for the scrambling.

    Arguments:
        size: D.
        first: id of the first point.
        count: how many points.
    """
    sequence = _sequence(seed, stream, size, get_ident())
    if first < sequence.num_generated:
        sequence.reset()
    with warnings.catch_warnings():  # about numbers of points that are no power of two
        warnings.simplefilter("ignore", UserWarning)
        if first > sequence.num_generated:
            sequence.fast_forward(first - sequence.num_generated)
        corners: np.ndarray = sequence.random(count)
    return corners + 0.5**BITS / 2  # the middle of a cell: 0 has no quantile


@lru_cache(maxsize=8)
def _sequence(seed: int, stream: int, size: int, thread: int) -> Any:
    """Return the sequence of a thread: each has its own position in it."""
    from scipy.stats import qmc

    rng = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, DESIGN)))
    )
    return qmc.Sobol(size, scramble=True, bits=BITS, rng=rng)
