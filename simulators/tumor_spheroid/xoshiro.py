"""Random numbers: xoshiro256++ (Scrambled Linear Pseudorandom Number Generators, Blackman and Vigna 2021).

The state is four words, uint64 (4,), and is changed by every draw.
"""

from __future__ import annotations

import numpy as np

from simulators.tumor_spheroid.compiled import njit


@njit
def _rotl(x: np.uint64, k: int) -> np.uint64:
    return (x << np.uint64(k)) | (x >> np.uint64(64 - k))


@njit
def next_word(rng: np.ndarray) -> np.uint64:
    s0, s1, s2, s3 = rng[0], rng[1], rng[2], rng[3]
    word = _rotl(s0 + s3, 23) + s0
    s2 ^= s0
    s3 ^= s1
    rng[0] = s0 ^ s3
    rng[1] = s1 ^ s2
    rng[2] = s2 ^ (s1 << np.uint64(17))
    rng[3] = _rotl(s3, 45)
    return word


@njit
def uniform(rng: np.ndarray) -> float:
    """A number in [0, 1)."""
    return (next_word(rng) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit
def below(rng: np.ndarray, n: int) -> np.int64:
    """An integer in 0 .. n - 1, n < 2^32 (bias below n / 2^32)."""
    return np.int64(((next_word(rng) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit
def exponential(rng: np.ndarray, rate: float) -> float:
    """A waiting time of the given rate, infinite for rate 0."""
    if rate <= 0.0:
        return np.inf
    return -np.log(1.0 - uniform(rng)) / rate
