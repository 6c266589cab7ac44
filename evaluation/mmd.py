"""Maximum mean discrepancy between posterior draws and reference draws, squared.

    MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)

Reference: A Kernel Two-Sample Test (2012), JMLR 13; Benchmarking Simulation-Based Inference (2021),
arXiv 2101.04653.

Two definitions: sbibm's (one Gaussian kernel, bandwidth the median distance within X, means without
the diagonal, so that the value is unbiased and may be below 0) and the CMPE paper's (a sum of 19
Gaussian kernels, means with the diagonal: biased upwards).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist, pdist, squareform

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
    within = pdist(x)
    middle = (len(within) - 1) // 2  # the lower median, as torch.median takes it
    scale = np.partition(within, middle)[middle]
    if scale == 0:
        raise ValueError("reference draws are equal: the median distance is 0, MMD has no scale")
    gamma = 0.5 / scale**2
    xx = np.exp(-gamma * within**2).mean()
    yy = np.exp(-gamma * pdist(y, "sqeuclidean")).mean()
    xy = np.exp(-gamma * cdist(x, y, "sqeuclidean")).mean()
    return float(xx + yy - 2 * xy)


def mmd_paper(reference: np.ndarray, draws: np.ndarray) -> float:
    """Return the CMPE paper's biased estimate, at least 0.

    k(x, y) = sum_b exp(-|x - y|^2 / (2 b)),  b in `BANDWIDTHS`
    """
    x, y = _pair(reference, draws)
    squared = (
        squareform(pdist(x, "sqeuclidean")),
        squareform(pdist(y, "sqeuclidean")),
        cdist(x, y, "sqeuclidean"),
    )
    xx, yy, xy = (sum(float(np.exp(d / (-2.0 * b)).mean()) for b in BANDWIDTHS) for d in squared)
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


def _pair(reference: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = paired(np.asarray(reference)[None], np.asarray(draws)[None], "reference, draws")
    if min(x.shape[1], y.shape[1]) < 2:
        raise ValueError(f"MMD needs two draws on each side, got {x.shape[1]} and {y.shape[1]}")
    return x[0], y[0]
