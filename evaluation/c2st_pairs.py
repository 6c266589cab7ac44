"""C2ST of pairs of parameters: which marginals of a posterior with many parameters differ from the reference.

A classifier on all parameters together needs more draws the more there are, and does not say which are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from evaluation.c2st import c2st_batch
from evaluation.score import Tick, streamed
from evaluation.two_sample import band, changed_sides


@dataclass(frozen=True)
class PairScores:
    """C2ST of the marginals of two parameters.

    Attributes:
        definition: the sentence beside the numbers.
        mean: over pairs and test sets.
        max: the largest mean of a pair over the test sets.
        null_band: range from 5 to 95 % of `mean` for a perfect sampler; None for a single test set.
        matrix: mean over the test sets of each pair, symmetric, 0.5 on the diagonal, shape (D, D).
        per_parameter: the largest of each parameter's pairs, shape (D,).
    """

    definition: str
    mean: float
    max: float
    null_band: np.ndarray | None
    matrix: np.ndarray
    per_parameter: np.ndarray

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray]) -> PairScores:
        """Return the scores of values (B, P) of all pairs, and of the mean of each null (K,)."""
        values = found["values"].mean(0)
        size = int(found["parameters"][0])
        matrix, pairs = np.full((size, size), 0.5), list(combinations(range(size), 2))
        for (j, k), value in zip(pairs, values, strict=True):
            matrix[j, k] = matrix[k, j] = value
        others = np.where(np.eye(size, dtype=bool), -np.inf, matrix)
        null = band(found["null"], len(found["values"]))
        words = (
            f"C2ST (sbibm) of each of {len(pairs)} pairs of parameters: the largest, and the mean"
        )
        return cls(words, float(values.mean()), float(values.max()), null, matrix, others.max(0))


def _pairs(
    references: np.ndarray,
    draws: np.ndarray,
    all_theta: np.ndarray,
    tick: Tick | None = None,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    sets, _, size = np.shape(draws)
    if size < 2:
        raise ValueError("c2st_pairs needs two parameters or more; c2st compares a single one")
    again = changed_sides(references, draws, len(all_theta))
    columns, nulls = [], []
    for done, pair in enumerate(map(list, combinations(range(size), 2)), start=1):
        one, other = (np.asarray(side)[..., pair] for side in (references, draws))
        columns.append(c2st_batch(one, other, device=device))
        nulls.append(c2st_batch(*(side[..., pair] for side in again), device=device))
        if tick:
            tick(sets * done // comb(size, 2))
    return {
        "values": np.stack(columns, axis=1),
        "null": np.mean(nulls, axis=0),
        "parameters": np.full(sets, size),
    }


@streamed(_pairs, lambda found, n, prior: PairScores.of(found), dear=True)
def c2st_pairs(
    references: np.ndarray, draws: np.ndarray, tick: Tick | None = None, device: str = "cpu"
) -> PairScores:
    """C2ST by sbibm's definition of every pair of parameters.

    Arguments:
        references: draws of the reference posteriors, shape (B, n, D), D >= 2.
        draws: draws to compare with them, shape (B, m, D).
        tick: called with the number of finished test sets, over all pairs.
        device: on which the classifiers are trained.
    """
    return PairScores.of(_pairs(references, draws, draws, tick, device))
