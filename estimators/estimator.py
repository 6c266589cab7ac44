"""The base of every estimator: a module with a loss and a posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from estimators.jacobian import jacobian, log_normal
from estimators.mixed_transform import MixedTransform
from estimators.posterior import CONDITIONALS, Posterior
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import EstimatorSettings, Settings
from estimators.summary.base import Summary
from estimators.summary.preprocessed import summary_of
from estimators.training_range import TrainingRange
from estimators.transform import ParameterTransform, parameter_transform


@dataclass(frozen=True)
class Replay:
    """How a phase learns from examples that are expensive to make and are used several times.

    Attributes:
        every: optimiser steps from one call of `Estimator.examples` to the next.
        keep: rows of examples that are kept, the latest.
    """

    every: int
    keep: int


@dataclass(frozen=True)
class Phase:
    """A stretch of training with an optimiser and a learning-rate schedule of its own.

    Attributes:
        name: for people.
        share: of all optimiser steps; the shares of the phases add up to 1.
        parameters: what is trained, on the device the module was on when asked.
        rate: factor on the learning rate.
        best: whether its end keeps the weights of the lowest validation loss rather than the last ones:
            for losses of which less is better, that is all but those with a moving target. Without it the
            best are kept only where the loss clearly rises behind its minimum.
        moving: whether the target moves with the weights, so that losses of two steps say nothing about
            which weights are better.
        replay: none: a step learns from its batch, by `Estimator.loss`; else from as many kept examples,
            by `Estimator.replay_loss`.
    """

    name: str
    share: float
    parameters: list[nn.Parameter]
    rate: float = 1.0
    best: bool = False
    moving: bool = False
    replay: Replay | None = None


class Estimator(nn.Module):
    """Base class: standardisation, the summary of x, and the posterior.

    A subclass takes the problem and its settings: a model named by `settings_type`, or keyword-only
    arguments, which `super().__init__` takes as well. It defines `loss` and
    `draw`; `density` where log p(u | x) is tractable; `push` where a draw is a function of one noise.
    Parameters reach these as u = transform(theta), data as the context, the summary of x.

    Arguments:
        problem: names, bounds and shapes.
        settings: bounds and summary network.
        shared: an estimator whose transform, summary network and training range serve this one as well.
        given: bounds, summary and summary_arguments by name, in place of settings.
    """

    settings_type: type[Settings] | None = None
    transform: ParameterTransform | MixedTransform
    summary: Summary
    range: TrainingRange

    takes_discrete = False  # whether it infers whole numbers and categories
    takes_simplexes = False  # whether it works with `latent_size` numbers for `size` parameters
    name = ""
    arguments: dict[str, Any]
    learning_rate = 1e-3  # the usual one
    sampling_steps: int | None = None  # network passes for a draw; None where there is no choice
    has_conditionals = False  # whether parameters may be given and outputs be absent
    whole_batch: Callable[[Tensor], Tensor] = staticmethod(lambda rows: rows)
    """Returns the rows of the whole batch, of which `loss` may be given a part; set by who trains on parts."""

    def __init__(
        self,
        problem: InferenceProblem,
        settings: EstimatorSettings | None = None,
        *,
        shared: Estimator | None = None,
        **given: Any,
    ) -> None:
        super().__init__()
        settings = settings or EstimatorSettings(**given)
        self.problem, self.bounds = problem, settings.bounds
        if problem.discrete and not self.takes_discrete:
            name, kind = problem.names[problem.discrete[0]], problem.kinds[problem.discrete[0]]
            raise ValueError(
                f"it infers continuous parameters, and {name!r} is {kind}; valid: mixed, or an ensemble of it"
            )
        if problem.simplexes and not self.takes_simplexes:
            shares = ", ".join(problem.names[j] for j in problem.simplexes[0])
            raise ValueError(
                f"it cannot infer parameters that add up to one ({shares}); valid: mixed, a flow, cmpe, "
                "cmpe_distilled, fmpe, npse"
            )
        if shared is not None:
            self.transform, self.summary, self.range = (
                shared.transform,
                shared.summary,
                shared.range,
            )
            return
        low = torch.tensor(problem.low, dtype=torch.float64)
        high = torch.tensor(problem.high, dtype=torch.float64)
        log = torch.tensor(
            [scale == "log" for scale in problem.scales or ["linear"] * problem.size]
        )
        self.transform = parameter_transform(settings.bounds, low, high, log)
        if problem.discrete or problem.simplexes:
            self.transform = MixedTransform(problem, settings.bounds, log)
        if problem.groups:
            self.transform.standard.groups = torch.tensor(problem.groups)
        self.summary = summary_of(
            problem.x, problem.preprocessing, settings.summary, settings.summary_arguments or {}
        )
        self.range = TrainingRange(problem.x)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of training, in order; `progress` in `loss` runs through all of them."""
        return (Phase("training", 1.0, list(self.parameters())),)

    def begin(self, phase: int) -> None:
        """Prepare a phase; the weights of the phase before are at their moving averages."""

    @property
    def row_memory(self) -> int:
        """About how many numbers one draw takes in a pass: it decides how many are drawn at once."""
        return self.problem.latent_size + self.summary.width

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        """Take means, scales and ranges from training rows."""
        self.transform.fit(theta)
        self.range.fit(x)
        if x:
            self.summary.fit(x)
            self.summary.select(self.transform(theta), x)

    def context(self, x: Mapping[str, Tensor], rows: int) -> Tensor:
        """Return the summary of x, shape (rows, C); C = 0 where the simulator has no outputs."""
        return self.summary(x) if x else self.transform.low.new_zeros(rows, 0)

    def forward(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        return self.loss(theta, x, progress)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the training loss of a batch, shape ().

        Arguments:
            theta: parameters (n, D), natural units.
            x: outputs, each (n, ...).
            progress: share of training that is done, in [0, 1]; the only state of training.
        """
        raise NotImplementedError

    def examples(self, theta: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a phase with `replay` learns from, made of a batch; the first axis is rows."""
        raise NotImplementedError

    def replay_loss(self, examples: Mapping[str, Tensor]) -> Tensor:
        """Return the training loss of rows of examples, shape ()."""
        raise NotImplementedError

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        """Return one draw u for each row of the context (rows, C), shape (rows, D).

        Arguments:
            generator: source of all randomness, on the CPU.
            sampling_steps: number of network passes, where the method has a choice.
        """
        raise NotImplementedError

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        """Return the draws u (rows, D) that the noise z ~ N(0, I), shape (rows, D), becomes."""
        raise NotImplementedError(f"a draw of estimator {self.name!r} is no function of one noise")

    @property
    def has_log_prob(self) -> bool:
        """Whether the class defines `density`."""
        return type(self).log_prob_latent is not Estimator.log_prob_latent

    def log_prob_latent(self, u: Tensor, context: Tensor) -> Tensor:
        """Return log p(u | context), shape (rows,)."""
        raise NotImplementedError(
            f"estimator {self.name or type(self).__name__!r} has no density at given parameters: "
            "use sample(), fit one to its draws with estimators.distil(), or train an estimator that "
            "has one (nsf, nsf_autoregressive, fmpe)"
        )

    def sample_latent_with_log_prob(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> tuple[Tensor, Tensor]:
        """Return one draw u for each row of the context, (rows, D), and log p(u | x), (rows,).

        Where `push` makes draws u = g(z), with exact Jacobian, otherwise by `density`:

            log p(u | x) = log N(z; 0, I) - log |det dg/dz|

        Raises:
            NotImplementedError: there is neither, or D is too large.
        """
        if type(self).transport is Estimator.transport:
            u = self.sample_latent(context, generator, sampling_steps)
            return u, self.log_prob_latent(u, context)
        z = self.noise(context, generator)
        u, derivative = jacobian(lambda v: self.transport(v, context, sampling_steps), z)
        return u, log_normal(z) - torch.linalg.slogdet(derivative).logabsdet

    def conditioned(self, context: Tensor, u: Tensor) -> Tensor:
        """Return a context in which parameters are given where u (rows, D) is no NaN."""
        raise NotImplementedError(
            f"estimator {self.name or type(self).__name__!r} has no conditionals of parameters: leave "
            f"`given` out, or train {CONDITIONALS}"
        )

    def posterior(self, provenance: Mapping[str, Any] | None = None) -> Posterior:
        """Return the posterior; it shares this module's weights.

        Arguments:
            provenance: where it comes from (JSON), see `estimators.save`.
        """
        return Posterior(self, provenance)

    def noise(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """Return standard normal numbers (rows, D), the same on every device."""
        shape = (len(context), self.problem.latent_size)
        return torch.randn(shape, generator=generator).to(context.device)
