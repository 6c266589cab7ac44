"""Random streams: everything random about a simulation follows from (seed, stream, id)."""

from __future__ import annotations

import numpy as np

TRAIN, TEST = 0, 1  # streams
PRIOR, NOISE = 0, 1  # the two draws of one simulation


def generators(seed: int, stream: int, key: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the generators of the prior draw and of the noise.

    `key` is the simulation's id, or the number of its block for a batched simulator:

        rng_k = PCG64(SeedSequence(seed, spawn_key=(stream, key, k))),  k = 0 (prior), 1 (noise)
    """
    prior, noise = (
        np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, key, k)))
        )
        for k in (PRIOR, NOISE)
    )
    return prior, noise
