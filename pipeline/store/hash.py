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

from pipeline.files import canonical_text
from pipeline.store.rows import Rows

LANES = 2
BLOCK_WORDS = 1 << 16  # words hashed at once: they stay in the cache
COMPILED_FROM = 128 << 20  # bytes checked in this process from which on compiled code is used
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@lru_cache(maxsize=1024)
def _keys(column: str, words: int) -> np.ndarray:
    """Return the odd keys (words, lanes) of one column."""
    lanes = []
    for lane in range(LANES):
        start = hashlib.sha256(f"{lane}:{column}".encode()).digest()[:8]
        steps = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN
        lanes.append(_mix(np.frombuffer(start, "<u8") + steps) | np.uint64(1))
    return np.stack(lanes, axis=1)


@lru_cache(maxsize=1024)
def _first_keys(column: str, words: int) -> np.ndarray:
    """Return the odd keys (words,) of one column in the first lane."""
    return np.ascontiguousarray(_keys(column, words)[:, 0])


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


class RowCheck:
    """Compares rows with their hashes by the first lane, which any change within one word changes.

    A process that checks few rows does so without compiled code, whose import would take longer.
    """

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, rows: Rows, hashes: np.ndarray) -> bool:
        """Return whether all rows have these hashes (n, 2)."""
        self._seen += rows.nbytes
        if self._seen < COMPILED_FROM:
            return bool(np.array_equal(row_hashes(rows), hashes))
        from pipeline.store.kernel import accumulate, agree, begin

        columns = rows.columns()
        ids = np.ascontiguousarray(columns.pop("id"))
        total = begin(ids, _first_keys("id", 1)[0], _first_keys("row", 1)[0])
        last = np.zeros((len(rows), 0), np.uint64), np.zeros(0, np.uint64)
        for name, column in columns.items():
            zero = name == "outcome" and not column.any()  # adds nothing
            if name != "seconds" and column.size and not zero:
                accumulate(*last, total)
                words = _words(column)
                last = words, _first_keys(name, words.shape[1])
        return bool(agree(*last, total, hashes))


check = RowCheck()


def digest(identity: dict[str, Any], rows: int, lanes: np.ndarray) -> str:
    """Return the SHA-256 of identity, number of rows and the sums (2,) of their hashes."""
    sums = [f"{int(lane):016x}" for lane in lanes]
    text = canonical_text({"identity": identity, "rows": rows, "hashes": sums})
    return hashlib.sha256(text.encode()).hexdigest()
