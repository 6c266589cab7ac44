"""Outputs that are a table's numbers: each in a suitable scale, without those that say nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.summary.identity import Identity
from estimators.transform import TINY, quantiles

FEW = 20  # outputs that are all kept: a network is not misled by so few
LEVEL = 0.01  # chance with which an output that says nothing is kept
NEARER = 0.5  # of 1 - r: how much nearer to normal another scale has to be
MOST_ROWS = 16_384  # of training, from which scales and outputs are chosen
MOST_PAIRS = 20_000  # of outputs that are tested for what they say together
PART = 512  # of these at a time


class Tabular(Identity):
    """The standardised outputs in scales of their own, those that say nothing about theta set to zero.

    The scale of an output y is y itself, asinh((y - median) / spread), or log y where it is positive: the
    one that is nearest to normal, by the correlation r of its values with their normal scores. y stays as
    it is unless another has at most half its 1 - r.

    Of more than twenty outputs only those are kept that depend on the parameters. With the normal scores z
    of each output and each parameter, the functions f of an output are z and z^2, and the functions g of
    the parameters are z_k and z_k z_l. If an output is independent of the parameters,

        sqrt(n) corr(f, g) ~ N(0, 1)    for every f and g

    about. An output is kept if the largest of these is larger in size than chance gives with probability
    0.01 (Bonferroni), or if that of the product of its scores with those of another output is larger than
    chance gives with this probability for any pair. Of a hundred outputs that say nothing about one is
    kept. A network trained on few rows would fit all of them.

    Shapiro, Francia: An Approximate Analysis of Variance Test for Normality (1972).

    Arguments:
        shapes: name -> shape of one simulation's output.
    """

    keep: Tensor  # (width,) 1 or 0
    scale: Tensor  # (width,) 0: y, 1: asinh, 2: log
    middle: Tensor  # (width,)
    spread: Tensor  # (width,)

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self.register_buffer("keep", torch.ones(self.width))
        self.register_buffer("scale", torch.zeros(self.width))
        self.register_buffer("middle", torch.zeros(self.width))
        self.register_buffer("spread", torch.ones(self.width))

    def fit(self, x: Mapping[str, Tensor]) -> None:
        values = super()._flat(x)
        middle, spread = quantiles(values[:MOST_ROWS])
        self.middle.copy_(middle)
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        self.scale.copy_(self._nearest(values[:MOST_ROWS]))
        super().fit(x)

    def select(self, u: Tensor, x: Mapping[str, Tensor]) -> None:
        if self.width > FEW:
            values = super()._flat(x)[:MOST_ROWS]
            self.keep.copy_(informative(values, u[:MOST_ROWS]))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return super().forward(x) * self.keep

    def _flat(self, x: Mapping[str, Tensor]) -> Tensor:
        values = super()._flat(x)
        if not bool(self.scale.any()):
            return values
        _, asinh, logarithm = self._scales(values)
        return torch.where(self.scale == 2, logarithm, torch.where(self.scale == 1, asinh, values))

    def _scales(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        asinh = torch.asinh((values - self.middle) / self.spread)
        return values, asinh, values.clamp_min(TINY).log()

    def _nearest(self, values: Tensor) -> Tensor:
        scores = _unit(normal_scores(values))
        away = torch.stack([1 - (_unit(v) * scores).sum(0) for v in self._scales(values)])
        away[1:] /= NEARER
        away[2] = torch.where((values > 0).all(0), away[2], torch.inf)
        return away.argmin(0)


def informative(x: Tensor, u: Tensor) -> Tensor:
    """Return which columns of x (n, C) depend on u (n, D), bool (C,), see `Tabular`; all where none does."""
    scores, rows = normal_scores(x), len(x)
    targets = _unit(_with_products(normal_scores(u)))
    alone = torch.stack([_unit(scores), _unit(scores.square())])
    largest = (alone.mT @ targets).abs().amax(dim=(0, 2)) * rows**0.5
    kept = largest > _bound(LEVEL, 2 * targets.shape[1])
    first, second = torch.triu_indices(x.shape[1], x.shape[1], 1)
    if 0 < len(first) <= MOST_PAIRS:
        bound = _bound(LEVEL, len(first) * targets.shape[1])
        for a, b in zip(first.split(PART), second.split(PART), strict=True):
            size = (_unit(scores[:, a] * scores[:, b]).T @ targets).abs().amax(1) * rows**0.5
            kept[torch.cat([a[size > bound], b[size > bound]])] = True
    return kept if bool(kept.any()) else torch.ones_like(kept)


def normal_scores(values: Tensor) -> Tensor:
    """Return normal quantiles of the ranks within each column of values (n, C); equal values share one."""
    columns = values.T.contiguous()
    ordered = columns.sort(dim=1).values
    low = torch.searchsorted(ordered, columns)
    high = torch.searchsorted(ordered, columns, right=True)
    return torch.special.ndtri((low + high).T.double() / (2 * len(values))).float()


def _with_products(scores: Tensor) -> Tensor:
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1])
    return torch.cat([scores, scores[:, first] * scores[:, second]], dim=1)


def _unit(values: Tensor) -> Tensor:
    """Return columns of mean 0 and length 1; constant columns are zero."""
    centred = values - values.mean(0)
    return centred / centred.norm(dim=0).clamp_min(1e-6)


def _bound(level: float, tests: int) -> float:
    """Return the size that the largest of so many normal values exceeds with a probability."""
    share = torch.tensor(1 - level / (2 * tests), dtype=torch.float64)
    return float(torch.special.ndtri(share))
