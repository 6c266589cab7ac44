"""The row hash in its first lane, compiled; imported only where many rows are checked."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def begin(ids: np.ndarray, key: np.uint64, constant: np.uint64) -> np.ndarray:
    """Return constant + key (w XOR (w >> 32)) for the word w of each id (n,), as uint64."""
    half = np.uint64(32)
    total = np.empty(ids.shape[0], np.uint64)
    for i in range(ids.shape[0]):
        word = np.uint64(ids[i])
        total[i] = constant + key * (word ^ (word >> half))
    return total


@njit(nogil=True, cache=True)
def accumulate(words: np.ndarray, keys: np.ndarray, total: np.ndarray) -> None:
    """Add sum_j keys_j (w_j XOR (w_j >> 32)) of each row of words (n, w) to total (n,), all uint64."""
    half = np.uint64(32)
    for i in range(words.shape[0]):
        row = total[i]
        for j in range(words.shape[1]):
            word = words[i, j]
            row += keys[j] * (word ^ (word >> half))
        total[i] = row


@njit(nogil=True, cache=True)
def agree(words: np.ndarray, keys: np.ndarray, total: np.ndarray, hashes: np.ndarray) -> bool:
    """Return whether the totals (n,) with the last words (n, w), mixed, are the first lane of hashes (n, 2)."""
    half, different = np.uint64(32), np.uint64(0)
    for i in range(words.shape[0]):
        h = total[i]
        for j in range(words.shape[1]):
            word = words[i, j]
            h += keys[j] * (word ^ (word >> half))
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        different |= (h ^ (h >> np.uint64(31))) ^ hashes[i, 0]
    return different == 0
