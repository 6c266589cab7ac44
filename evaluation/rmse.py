"""Distance of posterior draws from the true parameters, each on the scale of its prior.

The error of the exact posterior is not 0: it is as large as the data leave theta uncertain.

With test set i, draw s, parameter d:

    rmse    per d: mean_i sqrt(mean_s (theta_id - draw_isd)^2)
    nrmse   rmse_d / sd_d of the prior; predicting with the prior gives about 1.4
    mae     per d: mean_i mean_s |theta_id - draw_isd|
    r2      per d: 1 - sum_i (theta_id - median_s draw_isd)^2 / sum_i (theta_id - mean_i theta_id)^2
    rmse_paper   mean_i mean_s mean_d |theta_id - draw_isd| / |m|
                 m = mean over prior draws and parameters, one number

`rmse_paper` is what the tumour experiment of the CMPE paper (2023, arXiv 2312.05440) prints as RMSE: a mean
absolute error, divided by a number that depends on the scale of the parameters. Use it only to compare with
that paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.score import ParameterScores, Scores, check_shapes, streamed

RMSE = "Root of the mean squared error over draws, then mean over test sets and parameters"
NRMSE = "RMSE of each parameter in units of its prior's standard deviation, then mean"
R2 = "Share of the true parameters' variance that posterior medians explain, mean over parameters"
MAE = "Mean absolute error over draws, test sets and parameters"
PAPER = "CMPE paper's tumor 'RMSE': mean absolute error / |mean of all parameters|"


def _errors(theta: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return draws - theta, shape (B, n, D)."""
    theta, draws = np.asarray(theta, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    check_shapes(theta, draws)
    return draws - theta[:, None]


def _roots(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    return {"values": np.sqrt(np.square(_errors(theta, draws)).mean(1))}


def _in_prior_units(values: np.ndarray, prior: np.ndarray) -> ParameterScores:
    return ParameterScores.of(NRMSE, values / np.std(prior, axis=0, ddof=1))


@streamed(_roots, lambda found, n, prior: ParameterScores.of(RMSE, found["values"]))
def rmse(theta: np.ndarray, draws: np.ndarray) -> ParameterScores:
    """Root mean squared error, in the parameters' units."""
    return ParameterScores.of(RMSE, _roots(theta, draws)["values"])


@streamed(_roots, lambda found, n, prior: _in_prior_units(found["values"], prior))
def nrmse(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> ParameterScores:
    """Root mean squared error in units of the prior's standard deviation.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        prior: draws of the prior, shape (m, D).
    """
    return _in_prior_units(_roots(theta, draws)["values"], prior)


def _absolute(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    return {"values": np.abs(_errors(theta, draws)).mean(1)}


@streamed(_absolute, lambda found, n, prior: ParameterScores.of(MAE, found["values"]))
def mae(theta: np.ndarray, draws: np.ndarray) -> ParameterScores:
    """Mean absolute error, in the parameters' units."""
    return ParameterScores.of(MAE, _absolute(theta, draws)["values"])


@dataclass(frozen=True)
class Explained:
    """Share of the variance that posterior medians explain; 1 is perfect, 0 the prior's mean.

    Attributes:
        definition: the sentence beside the numbers.
        mean: over the parameters.
        per_parameter: shape (D,).
    """

    definition: str
    mean: float
    per_parameter: np.ndarray


def _medians(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    return {"gap": np.median(_errors(theta, draws), axis=1), "theta": np.asarray(theta)}


def _explained(found: Mapping[str, np.ndarray]) -> Explained:
    gap, theta = found["gap"], found["theta"]
    spread = np.square(theta - np.mean(theta, axis=0)).sum(0)
    share = 1 - np.square(gap).sum(0) / np.where(spread > 0, spread, np.nan)
    return Explained(R2, float(share.mean()), share)


@streamed(_medians, lambda found, n, prior: _explained(found))
def r2(theta: np.ndarray, draws: np.ndarray) -> Explained:
    """R^2 of the posterior medians; NaN for a parameter that is the same in all test sets."""
    return _explained(_medians(theta, draws))


def rmse_paper(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> Scores:
    """The number that the tumour experiment of the CMPE paper calls RMSE.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        prior: draws of the prior, shape (m, D), on the scale of theta (in the paper log10).
    """
    return Scores.of(PAPER, np.abs(_errors(theta, draws)).mean((1, 2)) / abs(float(np.mean(prior))))
