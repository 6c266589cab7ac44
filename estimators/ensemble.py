"""Ensembles: members of one kind that differ in their first weights and random numbers.

    loss = mean of the members' losses,   p(theta | x) = mean of the members' densities

A draw comes from a member at random. Where members disagree the mixture is wider than each of them.

Lakshminarayanan, Pritzel, Blundell: Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles (2017), arXiv 1612.01474.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from estimators.estimator import Estimator, Phase
from estimators.problem import InferenceProblem
from estimators.registry import build
from estimators.sampling_steps import SamplingSteps
from estimators.settings import PositiveInt, Settings
from estimators.summary.base import Summary


class EnsembleSettings(Settings):
    """Settings of `Ensemble`.

    Arguments:
        member: name of the members' estimator.
        members: how many.
        arguments: the members' own settings.
    """

    member: str = "cmpe"
    members: PositiveInt = 4
    arguments: dict[str, Any] | None = None


class Ensemble(Estimator):
    """A mixture of posteriors, equally weighted, trained together.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `EnsembleSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting of the members that is not valid.
    """

    takes_simplexes = True

    settings_type = EnsembleSettings
    takes_discrete = True  # where its members do, which they say themselves

    def __init__(self, problem: InferenceProblem, settings: EnsembleSettings) -> None:
        given = settings.arguments or {}
        built = [build(settings.member, problem, given) for _ in range(settings.members)]
        super().__init__(problem, bounds=built[0].bounds)
        self.members = nn.ModuleList(built)
        self.summary = _Summaries(built)
        self.sampling_steps = built[0].sampling_steps

    @property
    def row_memory(self) -> int:
        return sum(member.row_memory for member in self.estimators)

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        self.transform.fit(theta)
        self.range.fit(x)
        for member in self.estimators:
            member.standardise(theta, x)

    @property
    def phases(self) -> tuple[Phase, ...]:
        together = zip(*(member.phases for member in self.estimators), strict=True)
        return tuple(
            replace(same[0], parameters=[p for phase in same for p in phase.parameters])
            for same in together
        )

    def begin(self, phase: int) -> None:
        for member in self.estimators:
            member.begin(phase)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        return torch.stack([m.loss(theta, x, progress) for m in self.estimators]).mean()

    def examples(self, theta: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"{k}.{name}": values
            for k, member in enumerate(self.estimators)
            for name, values in member.examples(theta, x).items()
        }

    def replay_loss(self, examples: Mapping[str, Tensor]) -> Tensor:
        parts: list[dict[str, Tensor]] = [{} for _ in self.members]
        for key, values in examples.items():
            k, name = key.split(".", 1)
            parts[int(k)][name] = values
        losses = [m.replay_loss(part) for m, part in zip(self.estimators, parts, strict=True)]
        return torch.stack(losses).mean()

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        draws = context.new_empty(len(context), self.problem.latent_size)
        chosen = torch.randint(len(self.members), (len(context),), generator=generator)
        for k, (member, part) in enumerate(zip(self.estimators, self._split(context), strict=True)):
            rows = (chosen == k).nonzero()[:, 0].to(context.device)
            draws[rows] = member.sample_latent(part[rows], generator, sampling_steps).to(
                draws.dtype
            )
        return draws

    def log_prob_latent(self, u: Tensor, context: Tensor) -> Tensor:
        parts = zip(self.estimators, self._split(context), strict=True)
        densities = torch.stack([member.log_prob_latent(u, part) for member, part in parts])
        return densities.logsumexp(dim=0) - math.log(len(densities))

    @property
    def estimators(self) -> list[Estimator]:
        """The members."""
        return [member for member in self.members if isinstance(member, Estimator)]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        return context.split([member.summary.width for member in self.estimators], dim=1)


class _Summaries(Summary):
    """The members' summaries side by side; the members own them."""

    def __init__(self, members: Sequence[Estimator]) -> None:
        super().__init__()
        self.of = tuple(members)  # a tuple, so that they are no modules of this one
        self.width = sum(member.summary.width for member in members)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([member.summary(x) for member in self.of], dim=1)
