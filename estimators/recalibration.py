"""Conformal recalibration: draws whose marginal intervals cover as often as they say, at any budget.

A posterior places a true parameter theta_j among its own draws d_1 < ... < d_n at

    s(theta_j; x) = (k - 1/2 + w) / n              between d_k and d_{k+1}, w the share of the way
                    1/2n - (d_1 - theta_j) / r     below,   1 - 1/2n + (theta_j - d_n) / r   above

with r the range of the draws: a rank that goes on beyond them. On m rows that were held out of training the
scores S_(1) <= ... <= S_(m) of the true parameters are known, and a draw at level q of its own posterior,
q = (rank - 1/2) / n, is moved to

    s^-1(S_(q (m + 1)); x),   linear between the S_(k), and at the ends S_(1) and S_(m)

The true parameter of another simulation is exchangeable with those of the m rows, and s is increasing.
So an interval between levels a < b of the moved draws contains it with probability b - a, up to 1 / (m + 1)
at each end (and 1 / n, the resolution of draws), whatever the posterior is. The probability is over x and
the m rows: with these rows fixed, coverage has a standard deviation of sqrt(p (1 - p) / (m + 2)) about p.
Each parameter is moved alone and draws keep their order, so dependences between parameters stay.

Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World (2005). Chernozhukov, Wuethrich, Zhu:
Distributional Conformal Prediction (2021), arXiv 1909.07889.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.description import ArtefactError
from estimators.mixed_transform import MixedTransform
from estimators.sampling_steps import SamplingSteps
from estimators.transform import ParameterTransform

FILE = "recalibration.npz"
DRAWS = 1000  # by which a parameter is placed, and the fewest that are moved


@dataclass(frozen=True)
class Recalibration:
    """Where true parameters of held-out rows lie among a posterior's draws.

    Attributes:
        scores: sampling steps of the draws -> S_(k), shape (m, D), ascending; 0: no choice of steps.
        rows: which rows these are, in words.
        weights: SHA-256 of the posterior's weights.
    """

    scores: Mapping[int, np.ndarray]
    rows: str
    weights: str

    @property
    def count(self) -> int:
        """The number m of rows."""
        return len(next(iter(self.scores.values())))

    def require(self, sampling_steps: SamplingSteps) -> None:
        """Raise ValueError where there are no scores for draws of so many sampling steps."""
        if sampling_steps not in {steps or None for steps in self.scores}:
            known = ", ".join(str(steps) for steps in sorted(self.scores))
            raise ValueError(
                f"sampling_steps = {sampling_steps}: the posterior is recalibrated for {known}"
            )

    def move(self, v: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        """Return recalibrated draws (B, n, D), on the scale on which parameters are inferred."""
        self.require(sampling_steps)
        return moved(v, torch.from_numpy(self.scores[sampling_steps or 0]))  # type: ignore[index]

    def save(self, folder: Path) -> None:
        """Write into a posterior's folder."""
        arrays: dict[str, Any] = {f"scores_{steps}": v for steps, v in self.scores.items()}
        new = folder / f".{FILE}.partial"
        with new.open("wb") as file:
            np.savez(file, rows=np.array(self.rows), weights=np.array(self.weights), **arrays)
        new.replace(folder / FILE)


def load(folder: Path, weights: str) -> Recalibration | None:
    """Return what a posterior's folder holds for these weights; None: nothing, or of other weights.

    Raises:
        ArtefactError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            held = {name: file[name] for name in file.files}
        rows, of = str(held.pop("rows")), str(held.pop("weights"))
        scores = {int(name.removeprefix("scores_")): values for name, values in held.items()}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"{path}: damaged ({error}); evaluate again") from error
    return Recalibration(scores, rows, of) if of == weights else None


def marginal(transform: ParameterTransform | MixedTransform, estimator: str) -> ParameterTransform:
    """Return the scales and bounds of the parameters one by one, of an estimator of that name.

    Raises:
        ValueError: the estimator has another map, of which single parameters cannot be moved.
    """
    if not isinstance(transform, ParameterTransform):
        raise ValueError(f"estimator {estimator!r}: its draws cannot be recalibrated")
    return transform


def placed(theta: Tensor, draws: Tensor) -> Tensor:
    """Return the scores s of theta (B, D) among draws (B, n, D), shape (B, D)."""
    ordered, n = draws.double().sort(dim=1).values, draws.shape[1]
    columns, value = ordered.mT.contiguous(), theta.double().unsqueeze(2)
    above = torch.searchsorted(columns, value)
    right = above.clamp(1, n - 1)
    low, high = columns.gather(2, right - 1), columns.gather(2, right)
    gap = high - low
    way = torch.where(gap > 0, (value - low) / gap.clamp_min(1e-300), 0.5)
    inside = (right - 0.5 + way.clamp(0, 1)) / n
    least, most = columns[..., :1], columns[..., -1:]
    spread = _spread(least, most)
    below = 0.5 / n - (least - value) / spread
    beyond = 1 - 0.5 / n + (value - most) / spread
    score = torch.where(value < least, below, torch.where(value > most, beyond, inside))
    return score.squeeze(2)


def moved(draws: Tensor, scores: Tensor) -> Tensor:
    """Return draws (B, n, D) moved to the levels of scores (m, D), see the module's text."""
    n, m = draws.shape[1], len(scores)
    ordered, order = draws.double().sort(dim=1)
    level = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    at = (level * (m + 1) - 1).clamp(0, m - 1)
    first = at.floor().long().clamp(max=max(m - 2, 0))
    second = (first + 1).clamp(max=m - 1)
    known = scores.to(torch.float64)
    wanted = torch.lerp(known[first], known[second], (at - first)[:, None]).to(draws.device)
    place = wanted * n - 0.5
    left = place.floor().long().clamp(0, max(n - 2, 0))
    right = (left + 1).clamp(max=n - 1)
    share = (place - left).clamp(0, 1)
    index = left.expand(len(draws), -1, -1), right.expand(len(draws), -1, -1)
    value = torch.lerp(
        ordered.gather(1, index[0]), ordered.gather(1, index[1]), share.expand_as(ordered)
    )
    least, most = ordered[:, :1], ordered[:, -1:]
    spread = _spread(least, most)
    value = value + spread * (wanted - 0.5 / n).clamp_max(0)
    value = value + spread * (wanted - 1 + 0.5 / n).clamp_min(0)
    return torch.empty_like(value).scatter_(1, order, value).to(draws.dtype)


def _spread(least: Tensor, most: Tensor) -> Tensor:
    """Return the range of draws, a tiny one where all are equal."""
    return (most - least).clamp_min(1e-12 + 1e-9 * most.abs())
