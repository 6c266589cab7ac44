"""Row hashes and the digest of a set of rows, vectorised and independent of the shards' layout.

A row is a set of columns, a column a sequence of 64-bit little-endian words w_0, w_1, ... (its bytes,
filled up with zeros). For the lanes l = 0, 1

    h_l = mix( k(l, "row", 0) + sum_columns sum_j k(l, column, j) * (w_j XOR (w_j >> 32)) )  mod 2^64

with odd keys k and the finaliser `mix` of SplitMix64. A zero word adds nothing, so the padding of a
ragged output does not change a hash, and its length, a column of its own, does. Any change within one
word changes both lanes for certain. The digest of a set is made from the sums of both lanes mod 2^64.

Reference: Steele, Lea, Flood, Fast splittable pseudorandom number generators (2014) for `mix`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.store.files import canonical_text
from pipeline.store.rows import Rows

LANES = 2
BLOCK_WORDS = 1 << 16  # words hashed at once: they stay in the cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@lru_cache(maxsize=256)
def _keys(column: str, words: int) -> np.ndarray:
    """Return the odd keys (words, lanes) of one column."""
    lanes = []
    for lane in range(LANES):
        start = hashlib.sha256(f"{lane}:{column}".encode()).digest()[:8]
        steps = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN
        lanes.append(_mix(np.frombuffer(start, "<u8") + steps) | np.uint64(1))
    return np.stack(lanes, axis=1)


def _words(array: np.ndarray) -> np.ndarray:
    """Return the rows of an array as little-endian words (n, w)."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    raw = array.reshape(len(array), -1).view(np.uint8)
    if short := -raw.shape[1] % 8:
        raw = np.pad(raw, ((0, 0), (0, short)))
    return raw.view("<u8")


def row_hashes(rows: Rows) -> np.ndarray:
    """Return the hashes (n, 2) uint64 of id, theta, outcome and x with its lengths."""
    total = np.tile(_keys("row", 1), (len(rows), 1))
    for name, column in rows.columns().items():
        if name == "seconds" or not column.size:
            continue
        width = -(-column[0].nbytes // 8)
        keys, step = _keys(name, width), max(1, BLOCK_WORDS // width)
        for start in range(0, len(rows), step):
            words = _words(column[start : start + step])
            total[start : start + step] += (words ^ (words >> np.uint64(32))) @ keys
    return _mix(total)


def digest(identity: dict[str, Any], rows: int, lanes: np.ndarray) -> str:
    """Return the SHA-256 of identity, number of rows and the sums (2,) of their hashes."""
    sums = [f"{int(lane):016x}" for lane in lanes]
    text = canonical_text({"identity": identity, "rows": rows, "hashes": sums})
    return hashlib.sha256(text.encode()).hexdigest()
