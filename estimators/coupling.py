"""Coupling layers: each half of a vector is transformed element by element, given the other half.

Dinh, Sohl-Dickstein, Bengio: Density Estimation using Real NVP (2017), arXiv 1605.08803; ActNorm and
learned mixing: Kingma, Dhariwal: Glow (2018), arXiv 1807.03039.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.flows import GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform, LazyTransform, UnconditionalTransform
from zuko.transforms import DependentTransform, MonotonicAffineTransform, PermutationTransform

from estimators.checks import suggest
from estimators.flow import FlowSettings
from estimators.settings import Dropout, PositiveInt


class CouplingSettings(FlowSettings):
    """Settings of a coupling flow.

    Arguments:
        transforms: number L of layers; each transforms both halves.
        hidden: units in the layers of the network that yields the parameters of the transforms.
        dropout: probability with which training drops a unit of these.
        permutation: fixed, or learnable: a mixing matrix.
    """

    transforms: PositiveInt = 6
    hidden: Sequence[PositiveInt] = (128, 128)
    dropout: Dropout = 0.05
    permutation: str = "fixed"


def coupling_layers(
    size: int,
    context: int,
    univariate: Callable[..., Transform],
    shapes: Sequence[Sequence[int]],
    settings: CouplingSettings,
) -> LazyComposedTransform:
    """Return L layers of ActNorm, permutation, and two couplings: one half, then the other.

    Arguments:
        size, context: D and C.
        univariate: makes the transforms of single elements from their parameters.
        shapes: shapes of these parameters.
        settings: of the layers.

    Raises:
        LookupError: an unknown permutation.
    """
    permutation = settings.permutation
    if permutation not in PERMUTATIONS:
        valid = suggest(permutation, PERMUTATIONS)
        raise LookupError(f"unknown permutation {permutation!r}{valid}")
    couple = partial(
        _coupling, size, context, univariate, shapes, settings.hidden, settings.dropout
    )
    half = torch.arange(size) < size // 2
    layers: list[LazyTransform] = []
    for _ in range(settings.transforms):
        layers += [_scaling(size), PERMUTATIONS[permutation](size), couple(half), couple(~half)]
        if size == 1:  # there is no other half: one transform given the context alone
            layers.pop()
    return LazyComposedTransform(*layers)


def _coupling(
    size: int,
    context: int,
    univariate: Callable[..., Transform],
    shapes: Sequence[Sequence[int]],
    hidden: Sequence[int],
    dropout: float,
    given: Tensor,
) -> LazyTransform:
    """Return a coupling that transforms the elements that are not `given`."""
    layer = GeneralCouplingTransform(size, context, given, univariate=univariate, shapes=shapes)
    inputs, outputs = layer.hyper.in_features, layer.hyper.out_features
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *hidden]):
        parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    last = nn.Linear([inputs, *hidden][-1], outputs)
    nn.init.zeros_(last.weight)  # at first the coupling is the identity
    nn.init.zeros_(last.bias)
    layer.hyper = nn.Sequential(*parts, last)
    return layer


def _scaling(size: int) -> LazyTransform:
    def make(shift: Tensor, log_scale: Tensor) -> Transform:
        return DependentTransform(MonotonicAffineTransform(shift, log_scale), 1)

    return UnconditionalTransform(make, torch.zeros(size), torch.zeros(size))


def _fixed(size: int) -> LazyTransform:
    return UnconditionalTransform(PermutationTransform, torch.randperm(size), buffer=True)


def _learnable(size: int) -> LazyTransform:
    return UnconditionalTransform(Mixing, nn.init.orthogonal_(torch.empty(size, size)))


PERMUTATIONS: dict[str, Callable[[int], LazyTransform]] = {
    "fixed": _fixed,
    "learnable": _learnable,
}


class Mixing(Transform):
    """z = W u with an invertible matrix W.

    Arguments:
        matrix: W, shape (D, D).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, matrix: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.matrix = matrix

    def _call(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, y.unsqueeze(-1)).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.matrix).logabsdet.expand(x.shape[:-1])

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W u and log |det W|."""
        return self._call(x), self.log_abs_det_jacobian(x, x)
