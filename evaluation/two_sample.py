"""Metrics that compare draws with a reference posterior, and what they are when nothing differs.

If draws come from the reference posterior, the two may change sides: the same metric on a random half of both
together, against the other half, has the distribution that chance gives for this posterior and this number of
draws. That is done for some of the test sets. With m and s the mean and standard deviation of K such values,

    null_band = m +- t_{0.95, K-1} s sqrt(1/B + 1/K)

holds the mean over B test sets of a perfect sampler in 90 % of cases.

Reference: Permutation, Parametric and Bootstrap Tests of Hypotheses (2005).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import t

from evaluation.exchange import BAND
from evaluation.score import ComparedScores, Stream, Tick

FEW = 20  # test sets: up to so many, all change sides
EVERY = 5  # of more test sets, one in so many does

Values = Callable[..., np.ndarray]


def band(null: np.ndarray, sets: int) -> np.ndarray | None:
    """Return the band of a mean over `sets` values, by values (K,) when nothing differs; None for K = 1."""
    count = len(null)
    if count < 2:
        return None
    width = null.std(ddof=1) * np.sqrt(1 / sets + 1 / count)
    return np.asarray(null.mean() + t.ppf(BAND, count - 1) * width)


def changed_sides(
    references: np.ndarray, draws: np.ndarray, sets: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (K, n, D) and (K, m, D) of some test sets, dealt out to both sides at random.

    Arguments:
        references, draws: of b test sets, shape (b, n, D) and (b, m, D).
        sets: number of all test sets B, of which these are some.
    """
    step = 1 if sets <= FEW else EVERY
    dealt = []
    for reference, drawn in zip(references[::step], draws[::step], strict=True):
        rows = np.concatenate([reference, drawn])
        seed = zlib.crc32(np.ascontiguousarray(drawn).tobytes())  # the same in blocks of any size
        dealt.append(np.random.default_rng(seed).permutation(rows))
    both = np.stack(dealt)
    return both[:, : references.shape[1]], both[:, references.shape[1] :]


def by_set(
    value: Callable[[np.ndarray, np.ndarray], float],
    references: np.ndarray,
    draws: np.ndarray,
    tick: Tick | None,
) -> np.ndarray:
    """Return the value of every test set, shape (B,)."""
    values = []
    for reference, drawn in zip(references, draws, strict=True):
        values.append(value(reference, drawn))
        if tick:
            tick(len(values))
    return np.array(values)


def _at_end(tick: Tick | None, sets: int) -> Tick | None:
    """Return a function that tells that all test sets are measured, whatever it is told."""
    return None if tick is None else lambda done: tick(sets)


def two_sample(definition: str) -> Callable[[Values], Callable[..., ComparedScores]]:
    """Make a metric of a function of (references, draws, tick) that returns a value for each test set.

    Arguments:
        definition: the sentence beside the numbers.
    """

    def made(values: Values) -> Callable[..., ComparedScores]:
        def parts(
            references: np.ndarray,
            draws: np.ndarray,
            all_theta: np.ndarray,
            tick: Tick | None = None,
            device: str = "cpu",
        ) -> dict[str, np.ndarray]:
            more = {"device": device} if device != "cpu" else {}
            found = values(references, draws, tick, **more)
            again = changed_sides(references, draws, len(all_theta))
            return {"values": found, "null": values(*again, _at_end(tick, len(draws)), **more)}

        def join(found: Mapping[str, np.ndarray], n: int, prior: Any) -> ComparedScores:
            width = band(found["null"], len(found["values"]))
            return ComparedScores.within(definition, found["values"], width)

        @functools.wraps(values)
        def metric(
            references: np.ndarray, draws: np.ndarray, tick: Tick | None = None, **more: Any
        ) -> ComparedScores:
            return join(parts(references, draws, draws, tick, **more), 0, None)

        metric.stream = Stream(parts, join, dear=True)  # type: ignore[attr-defined]
        return metric

    return made
