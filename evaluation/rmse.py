"""Distance of posterior draws from the true parameters, each on the scale of its prior.

A perfect posterior is not at 0: it is as wide as the data leave it.

With test set i, draw s, parameter d:

    rmse    per d: mean_i sqrt(mean_s (theta_id - draw_isd)^2)
    nrmse   rmse_d / sd_d of the prior; predicting with the prior gives about 1.4
    mae     per d: mean_i mean_s |theta_id - draw_isd|
    r2      per d: 1 - sum_i (theta_id - median_s draw_isd)^2 / sum_i (theta_id - mean_i theta_id)^2
    rmse_paper   mean_i mean_s mean_d |theta_id - draw_isd| / |m|
                 m = mean over prior draws and parameters, one number

`rmse_paper` is what the tumor experiment of the CMPE paper (2023, arXiv:2312.05440) prints as RMSE:
a mean absolute error in units of a number that depends on how the parameters happen to be coded. It
is here to be compared with that paper, and for nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.score import ParameterScores, Scores

RMSE = "Root of the mean squared error over draws, then mean over test sets and parameters"
NRMSE = "RMSE of each parameter in units of its prior's standard deviation, then mean"
R2 = "Share of the true parameters' variance that posterior medians explain, mean over parameters"
MAE = "Mean absolute error over draws, test sets and parameters"
PAPER = "CMPE paper's tumor 'RMSE': mean absolute error / |mean of all parameters|"


def _errors(theta: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return draws - theta, shape (B, n, D)."""
    theta, draws = np.asarray(theta, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if theta.ndim != 2 or draws.ndim != 3 or draws.shape[::2] != theta.shape:
        raise ValueError(
            f"theta {theta.shape} and draws {draws.shape}; valid: (B, D) and (B, n, D)"
        )
    return draws - theta[:, None]


def rmse(theta: np.ndarray, draws: np.ndarray) -> ParameterScores:
    """Root mean squared error, in the parameters' units."""
    return ParameterScores.of(RMSE, np.sqrt(np.square(_errors(theta, draws)).mean(1)))


def nrmse(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> ParameterScores:
    """Root mean squared error in units of the prior's standard deviation.

    Args:
        prior: draws of the prior, shape (m, D).
    """
    scale = np.std(prior, axis=0, ddof=1)
    return ParameterScores.of(NRMSE, np.sqrt(np.square(_errors(theta, draws)).mean(1)) / scale)


def mae(theta: np.ndarray, draws: np.ndarray) -> ParameterScores:
    """Mean absolute error, in the parameters' units."""
    return ParameterScores.of(MAE, np.abs(_errors(theta, draws)).mean(1))


@dataclass(frozen=True)
class Explained:
    """Share of the variance that posterior medians explain; 1 is perfect, 0 the prior's mean.

    Attributes:
        mean: over the parameters. per_parameter: shape (D,).
    """

    definition: str
    mean: float
    per_parameter: np.ndarray


def r2(theta: np.ndarray, draws: np.ndarray) -> Explained:
    """R^2 of the posterior medians; NaN for a parameter that is the same in all test sets."""
    gap = np.median(_errors(theta, draws), axis=1)
    spread = np.square(theta - np.mean(theta, axis=0)).sum(0)
    share = 1 - np.square(gap).sum(0) / np.where(spread > 0, spread, np.nan)
    return Explained(R2, float(share.mean()), share)


def rmse_paper(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> Scores:
    """The number that the tumor experiment of the CMPE paper calls RMSE.

    Args:
        prior: draws of the prior, shape (m, D), in the coding in which theta is given
        (there: log10).
    """
    return Scores.of(PAPER, np.abs(_errors(theta, draws)).mean((1, 2)) / abs(float(np.mean(prior))))
