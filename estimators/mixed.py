"""Mixed inference: classifiers for whole numbers and categories, a spline flow for the other parameters.

    log p(theta | x) = sum_j log P(d_j | d_1, ..., d_(j-1), x) + log p(c | d, x)

with d the discrete and c the continuous parameters. Each P is a softmax over the values of one parameter, given
those before it and a summary of x. Nothing is rounded: draws are whole numbers, and their probability is exact.

Boelts, Lueckmann, Gao, Macke: Flexible and efficient simulation-based inference for models of decision-making
(2022), doi 10.7554/eLife.77220, does so for likelihoods.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import zuko
from torch import Tensor, nn
from torch.nn.functional import one_hot

from estimators.estimator import Estimator
from estimators.flow import FlowSettings
from estimators.jacobian import log_normal
from estimators.mixed_transform import MixedTransform
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import Bins, PositiveInt


class MixedSettings(FlowSettings):
    """Settings of `Mixed`.

    Arguments:
        transforms: number of layers of the flow.
        bins: pieces of a spline.
        hidden: units in the layers of the classifiers and of the network that yields the splines.
    """

    transforms: PositiveInt = 4
    bins: Bins = 8
    hidden: Sequence[PositiveInt] = (64, 64)


class Mixed(Estimator):
    """Posterior estimator by maximum likelihood for discrete and continuous parameters together.

    Arguments:
        problem: names, bounds, kinds and shapes.
        settings: see `MixedSettings`.

    Raises:
        LookupError, ValueError: a setting that is not valid.
    """

    takes_simplexes = True

    settings_type = MixedSettings
    takes_discrete = True

    def __init__(self, problem: InferenceProblem, settings: MixedSettings) -> None:
        super().__init__(problem, settings)
        if not self.transform.bijective:
            raise ValueError(
                f"bounds = {settings.bounds!r} has no density for a bounded prior; "
                "valid: logit, probit"
            )
        mixed = self.transform if isinstance(self.transform, MixedTransform) else None
        self.counts = mixed.counts if mixed else []
        self.discrete = mixed.discrete if mixed else []
        self.continuous = mixed.continuous if mixed else list(range(problem.latent_size))
        width, hidden = self.summary.width, tuple(settings.hidden)
        self.classifiers = nn.ModuleList()
        for count in self.counts:
            self.classifiers.append(_perceptron((width, *hidden, count)))
            width += count
        self.flow = None
        if self.continuous:
            self.flow = zuko.flows.NSF(
                features=len(self.continuous),
                context=width,
                transforms=settings.transforms,
                bins=settings.bins,
                hidden_features=hidden,
            ).transform

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        return -self.log_prob_latent(self.transform(theta), self.context(x, len(theta))).mean()

    def log_prob_latent(self, u: Tensor, context: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            given, total = context.float(), u.new_zeros(len(u))
            for column, count, classifier in self._heads():
                place = u[:, column].round().long().clamp(0, count - 1)
                log_shares = classifier(given).log_softmax(-1)
                total = total + log_shares.gather(1, place[:, None])[:, 0]
                given = torch.cat([given, one_hot(place, count).float()], dim=1)
            if self.flow is not None:
                values = u[:, self.continuous].float()
                z, log_det = self.flow(given).call_and_ladj(values)
                total = total + log_det + log_normal(z)
        return total

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        u = context.new_zeros(len(context), self.problem.latent_size, dtype=torch.float32)
        with torch.autocast(context.device.type, enabled=False):
            given = context.float()
            for column, count, classifier in self._heads():
                below = classifier(given).softmax(-1).cumsum(-1)[:, :-1]
                level = torch.rand(len(u), 1, generator=generator).to(u.device)
                place = (level > below).sum(-1)
                u[:, column] = place.float()
                given = torch.cat([given, one_hot(place, count).float()], dim=1)
            if self.flow is not None:
                shape = (len(u), len(self.continuous))
                z = torch.randn(shape, generator=generator).to(u.device)
                u[:, self.continuous] = self.flow(given).inv(z)
        return u

    def _heads(self) -> list[tuple[int, int, nn.Module]]:
        """Return latent coordinate, number of values and classifier of each discrete parameter."""
        return list(zip(self.discrete, self.counts, self.classifiers, strict=True))


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
