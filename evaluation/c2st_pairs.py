"""C2ST of pairs of parameters: which marginals of a posterior with many parameters differ from the reference.

A classifier on all parameters together needs more draws the more there are, and does not say which are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluation.c2st import c2st_batch
from evaluation.score import Tick


@dataclass(frozen=True)
class PairScores:
    """C2ST of the marginals of two parameters.

    Attributes:
        definition: the sentence beside the numbers.
        mean: over pairs and test sets.
        max: the largest mean of a pair over the test sets.
        matrix: mean over the test sets of each pair, symmetric, 0.5 on the diagonal, shape (D, D).
        per_parameter: the largest of each parameter's pairs, shape (D,).
    """

    definition: str
    mean: float
    max: float
    matrix: np.ndarray
    per_parameter: np.ndarray


def c2st_pairs(references: np.ndarray, draws: np.ndarray, tick: Tick | None = None) -> PairScores:
    """C2ST by sbibm's definition of every pair of parameters.

    Arguments:
        references: draws of the reference posteriors, shape (B, n, D), D >= 2.
        draws: draws to compare with them, shape (B, m, D).
        tick: called with the number of finished test sets, over all pairs.
    """
    sets, _, size = np.shape(draws)
    if size < 2:
        raise ValueError("c2st_pairs needs two parameters or more; c2st compares a single one")
    pairs, matrix = list(combinations(range(size), 2)), np.full((size, size), 0.5)
    for number, (j, k) in enumerate(pairs):
        columns = [j, k]
        values = c2st_batch(np.asarray(references)[..., columns], np.asarray(draws)[..., columns])
        matrix[j, k] = matrix[k, j] = values.mean()
        if tick:
            tick(sets * (number + 1) // len(pairs))
    found = np.array([matrix[pair] for pair in pairs])
    others = np.where(np.eye(size, dtype=bool), -np.inf, matrix)
    words = f"C2ST (sbibm) of each of {len(pairs)} pairs of parameters: the largest, and the mean"
    return PairScores(words, float(found.mean()), float(found.max()), matrix, others.max(0))
