"""Maximum mean discrepancy between posterior draws and reference draws, squared.

    MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)

Reference: A Kernel Two-Sample Test (2012), JMLR 13; Benchmarking Simulation-Based Inference (2021),
arXiv 2101.04653.

Two definitions: sbibm's (one Gaussian kernel, bandwidth the median distance within X, means without
the diagonal, so that the value is unbiased and may be below 0) and the CMPE paper's (a sum of 19
Gaussian kernels, means with the diagonal: biased upwards).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from scipy.spatial.distance import cdist, pdist

from evaluation.score import Tick, paired
from evaluation.two_sample import by_set, two_sample

SBIBM = "sbibm: unbiased MMD^2, Gaussian kernel, bandwidth = median distance within the reference"
PAPER = "CMPE paper's code: biased MMD^2, sum of 19 Gaussian kernels, not below 0"
BANDWIDTHS = (
    1e-6,
    1e-5,
    1e-4,
    1e-3,
    1e-2,
    0.1,
    1,
    5,
    10,
    15,
    20,
    25,
    30,
    35,
    100,
    1e3,
    1e4,
    1e5,
    1e6,
)
TILE = 2048  # draws; distances are held between two blocks of this many, 32 MB
BINS = 1 << 16


def mmd(reference: np.ndarray, draws: np.ndarray) -> float:
    """Return sbibm's unbiased estimate of MMD^2.

        k(x, y) = exp(-|x - y|^2 / (2 s^2)),  s = median |x - x'|

    Arguments:
        reference: X, draws of the reference posterior, shape (n, D).
        draws: Y, draws to compare with it, shape (m, D).

    Raises:
        ValueError: shapes that do not fit, NaN, fewer than two draws, or reference draws that are equal.
    """
    x, y = _pair(reference, draws)
    scale = _median_distance(x)
    if scale == 0:
        raise ValueError("reference draws are equal: the median distance is 0, MMD has no scale")
    gamma = 0.5 / scale**2
    xx = _mean(np.exp(-gamma * tile**2) for tile in _within(x, "euclidean"))
    yy = _mean(np.exp(-gamma * tile) for tile in _within(y, "sqeuclidean"))
    xy = _mean(np.exp(-gamma * tile) for tile in _between(x, y))
    return float(xx + yy - 2 * xy)


def mmd_paper(reference: np.ndarray, draws: np.ndarray) -> float:
    """Return the CMPE paper's biased estimate, at least 0.

    k(x, y) = sum_b exp(-|x - y|^2 / (2 b)),  b in `BANDWIDTHS`
    """
    x, y = _pair(reference, draws)
    xx, yy, xy = (_paper_mean(*pair) for pair in ((x, x), (y, y), (x, y)))
    return max(xx + yy - 2 * xy, 0.0)


@two_sample(SBIBM)
def mmd_sets(references: np.ndarray, draws: np.ndarray, tick: Tick | None = None) -> np.ndarray:
    """MMD^2 of every test set by sbibm's definition."""
    return by_set(mmd, references, draws, tick)


@two_sample(PAPER)
def mmd_paper_sets(
    references: np.ndarray, draws: np.ndarray, tick: Tick | None = None
) -> np.ndarray:
    """MMD^2 of every test set by the CMPE paper's definition."""
    return by_set(mmd_paper, references, draws, tick)


def _paper_mean(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of the paper's kernel over all pairs, those of a draw with itself among them."""
    sums = np.zeros(len(BANDWIDTHS))
    for tile in _between(x, y):
        sums += [np.exp(tile / (-2.0 * b)).sum() for b in BANDWIDTHS]
    return float(sum(sums / (len(x) * len(y))))


def _within(x: np.ndarray, metric: str) -> Iterator[np.ndarray]:
    """Yield the distances of all pairs of draws, a tile at a time: n (n - 1) / 2 in all."""
    for start in range(0, len(x), TILE):
        block = x[start : start + TILE]
        yield pdist(block, metric)
        for other in range(start + TILE, len(x), TILE):
            yield cdist(block, x[other : other + TILE], metric)


def _between(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the squared distances of the draws of two sets, a tile at a time: n m in all."""
    for start in range(0, len(x), TILE):
        for other in range(0, len(y), TILE):
            yield cdist(x[start : start + TILE], y[other : other + TILE], "sqeuclidean")


def _mean(tiles: Iterable[np.ndarray]) -> float:
    """Return the mean over the elements of all tiles."""
    total, count = 0.0, 0
    for tile in tiles:
        total += tile.sum()
        count += tile.size
    return total / count


def _median_distance(x: np.ndarray) -> float:
    """Return the lower median of the distances within a set, as torch.median takes it.

    Above one tile, distances are counted in bins, and those of the median's bin alone are sorted.
    """
    rank = (len(x) * (len(x) - 1) // 2 - 1) // 2
    if len(x) <= TILE:
        return float(np.partition(pdist(x), rank)[rank])
    longest = max(float(tile.max(initial=0.0)) for tile in _within(x, "euclidean"))
    if longest == 0:
        return 0.0

    def bins(tile: np.ndarray) -> np.ndarray:
        return (tile * ((BINS - 1) / longest)).astype(np.intp).ravel()

    counts = sum(np.bincount(bins(tile), minlength=BINS) for tile in _within(x, "euclidean"))
    upto = np.cumsum(counts)
    chosen = int(np.searchsorted(upto, rank, side="right"))
    among = [tile.ravel()[bins(tile) == chosen] for tile in _within(x, "euclidean")]
    rank -= int(upto[chosen - 1]) if chosen else 0
    return float(np.partition(np.concatenate(among), rank)[rank])


def _pair(reference: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = paired(np.asarray(reference)[None], np.asarray(draws)[None], "reference, draws")
    if min(x.shape[1], y.shape[1]) < 2:
        raise ValueError(f"MMD needs two draws on each side, got {x.shape[1]} and {y.shape[1]}")
    return x[0], y[0]
