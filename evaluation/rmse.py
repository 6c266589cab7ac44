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

from evaluation.exchange import BAND, REPETITIONS, exchanged, null_band
from evaluation.score import ComparedScores, ParameterScores, check_shapes, streamed

RMSE = "Root of the mean squared error over draws, then mean over test sets and parameters"
NRMSE = "RMSE of each parameter in units of its prior's standard deviation, then mean"
R2 = "Share of the true parameters' variance that posterior medians explain, mean over parameters"
MAE = "Mean absolute error over draws, test sets and parameters"
KEPT = 64 * REPETITIONS  # numbers that a test set keeps for the band of R^2
FEWEST = 20  # draws in the place of the truth, for any number of parameters
PAPER = "CMPE paper's tumor 'RMSE': mean absolute error / |mean of all parameters|"


@dataclass(frozen=True)
class ParameterErrors(ParameterScores):
    """Errors of each parameter, and the band of their mean.

    Attributes:
        null_band: range from 5 to 95 % of `mean`, were the draws those of the true posterior.
    """

    null_band: np.ndarray

    @classmethod
    def against(cls, definition: str, found: Mapping[str, np.ndarray]) -> ParameterErrors:
        """Return the scores of values (B, D), and of `exchanged` means (B, R)."""
        plain = ParameterScores.of(definition, found["values"])
        return cls(definition, plain.mean, plain.sem, plain.per_parameter, null_band(found["null"]))


def _errors(theta: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return draws - theta, shape (B, n, D)."""
    theta, draws = np.asarray(theta, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    check_shapes(theta, draws)
    return draws - theta[:, None]


def _roots(
    theta: np.ndarray, draws: np.ndarray, scale: np.ndarray | float = 1.0
) -> dict[str, np.ndarray]:
    """Return root mean squared errors (b, D), and their means with draws in the place of the truth (b, R)."""
    values = np.sqrt(np.square(_errors(theta, draws)).mean(1)) / scale
    draws = np.asarray(draws, np.float64)
    n, centre, variance = draws.shape[1], draws.mean(1), draws.var(1)

    def left_out(truth: np.ndarray, others: np.ndarray) -> np.ndarray:
        squares = (
            (np.square(truth - centre) + variance) * n / (n - 1)
        )  # without its own distance, 0
        return np.asarray((np.sqrt(squares) / scale).mean(1))

    return {"values": values, "null": exchanged(left_out, draws)}


@streamed(_roots, lambda found, n, prior: ParameterErrors.against(RMSE, found))
def rmse(theta: np.ndarray, draws: np.ndarray) -> ParameterErrors:
    """Root mean squared error, in the parameters' units."""
    return ParameterErrors.against(RMSE, _roots(theta, draws))


def _roots_in_units(
    theta: np.ndarray, draws: np.ndarray, prior: np.ndarray
) -> dict[str, np.ndarray]:
    return _roots(theta, draws, np.std(prior, axis=0, ddof=1))


@streamed(_roots_in_units, lambda found, n, prior: ParameterErrors.against(NRMSE, found))
def nrmse(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> ParameterErrors:
    """Root mean squared error in units of the prior's standard deviation.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        prior: draws of the prior, shape (m, D).
    """
    return ParameterErrors.against(NRMSE, _roots_in_units(theta, draws, prior))


def _absolute(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean absolute errors (b, D), and their means with draws in the place of the truth (b, R)."""
    values = np.abs(_errors(theta, draws)).mean(1)

    def left_out(truth: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.asarray((np.abs(others - truth[:, None]).sum(1) / (others.shape[1] - 1)).mean(1))

    return {"values": values, "null": exchanged(left_out, np.asarray(draws, np.float64))}


@streamed(_absolute, lambda found, n, prior: ParameterErrors.against(MAE, found))
def mae(theta: np.ndarray, draws: np.ndarray) -> ParameterErrors:
    """Mean absolute error, in the parameters' units."""
    return ParameterErrors.against(MAE, _absolute(theta, draws))


@dataclass(frozen=True)
class Explained:
    """Share of the variance that posterior medians explain; 1 is perfect, 0 the prior's mean.

    Attributes:
        definition: the sentence beside the numbers.
        mean: over the parameters.
        per_parameter: shape (D,).
        null_band: range from 5 to 95 % of `mean`, were the draws those of the true posterior.
    """

    definition: str
    mean: float
    per_parameter: np.ndarray
    null_band: np.ndarray

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray]) -> Explained:
        """Return the share by medians and truths (B, D), and by draws in the place of the truth (B, R, D)."""
        median = found["median"]
        each = _explained(found["theta"], median)
        null = [_explained(theta, median).mean() for theta in found["null"].swapaxes(0, 1)]
        return cls(R2, float(each.mean()), each, np.quantile(null, BAND))


def _explained(theta: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Return the share of the variance of theta (B, D) that medians (B, D) explain, shape (D,)."""
    spread = np.square(theta - theta.mean(0)).sum(0)
    return np.asarray(1 - np.square(theta - median).sum(0) / np.where(spread > 0, spread, np.nan))


def _medians(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    theta, draws = np.asarray(theta, np.float64), np.asarray(draws, np.float64)
    check_shapes(theta, draws)
    times = int(np.clip(KEPT // draws.shape[2], FEWEST, REPETITIONS))
    null = exchanged(lambda truth, others: truth, draws, times)
    return {"theta": theta, "median": np.median(draws, axis=1), "null": null.astype(np.float32)}


@streamed(_medians, lambda found, n, prior: Explained.of(found))
def r2(theta: np.ndarray, draws: np.ndarray) -> Explained:
    """R^2 of the posterior medians; NaN for a parameter that is the same in all test sets."""
    return Explained.of(_medians(theta, draws))


def _in_papers_unit(
    theta: np.ndarray, draws: np.ndarray, prior: np.ndarray
) -> dict[str, np.ndarray]:
    unit = abs(float(np.mean(prior)))
    return {name: values / unit for name, values in _absolute(theta, draws).items()}


def _paper(found: Mapping[str, np.ndarray]) -> ComparedScores:
    return ComparedScores.within(PAPER, found["values"].mean(1), null_band(found["null"]))


@streamed(_in_papers_unit, lambda found, n, prior: _paper(found))
def rmse_paper(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> ComparedScores:
    """The number that the tumour experiment of the CMPE paper calls RMSE.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        prior: draws of the prior, shape (m, D), on the scale of theta (in the paper log10).
    """
    return _paper(_in_papers_unit(theta, draws, prior))
