"""The posterior of a trained estimator: draws and densities in natural units."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.checks import renamed
from estimators.given import given_parameters
from estimators.memory import draws_that_fit
from estimators.observation import Observation, absent_outputs, batched
from estimators.recalibration import DRAWS, Recalibration, marginal
from estimators.sampling_steps import SamplingSteps
from estimators.training_range import OutOfRangeWarning
from estimators.transform import ParameterTransform

if TYPE_CHECKING:
    from estimators.estimator import Estimator

ROWS = 8192  # rows in one network pass: larger ones leave the processor's cache
FLOATS = 2**24  # numbers that one pass may take
OBSERVATIONS = 1024  # observations in one pass of the summary network
CHANNELS = 64  # numbers that a summary network is taken to need for one of an observation

CONDITIONALS = "estimator 'joint' or 'joint_distilled'"  # those that have them


class Posterior:
    """p(theta | x), amortised over x.

    Arguments:
        estimator: the trained module; its weights are shared, not copied.
        provenance: where it comes from (JSON), see `estimators.save`.
    """

    def __init__(self, estimator: Estimator, provenance: Mapping[str, Any] | None = None) -> None:
        self.module = estimator
        self.names = estimator.problem.names
        self.estimator = estimator.name
        self.provenance = dict(provenance or {})
        self.recalibration: Recalibration | None = None

    @property
    def x_shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of an observation: name -> shape."""
        return dict(self.module.problem.x)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the parameters as an array: (D,), or that of an image."""
        return self.module.problem.parameter_shape

    @property
    def has_conditionals(self) -> bool:
        """Whether outputs may be absent and parameters be given."""
        return bool(self.module.has_conditionals)

    @property
    def sampling_steps(self) -> int | None:
        """The network passes that a draw takes by default; None where there is no choice."""
        return self.module.sampling_steps

    @property
    def steps(self) -> int | None:
        """The former name of `sampling_steps`."""
        return renamed("steps", self.sampling_steps, "sampling_steps")

    @torch.inference_mode()
    def sample(
        self,
        x: Observation,
        n: int,
        *,
        sampling_steps: SamplingSteps = None,
        seed: int | None = None,
        bf16: bool = False,
        given: Mapping[str, ArrayLike] | None = None,
        calibrated: bool = False,
        steps: SamplingSteps = None,
    ) -> Tensor:
        """Return draws theta ~ p(theta | x), shape (B, n, D), natural units, float32.

        Of a single observation, without its axis B, they have the shape (n, D). Equal seeds give equal
        draws, on every device up to rounding. An observation far outside of the training range gives an
        `OutOfRangeWarning`.

        Arguments:
            x: outputs of B observations by name, each of shape (B, ...), or of one, each of its own shape;
                one array where there is one output.
            n: draws for one observation.
            sampling_steps: network passes, where the method has a choice; None is its default.
            seed: None takes torch's global generator.
            bf16: compute in bfloat16 where torch deems it safe.
            given: values of parameters by name, each a number or of shape (B,), natural units: draws are those
                of the other parameters given these. Estimators `joint` and `joint_distilled` have such
                conditionals.
            calibrated: move the draws so that intervals cover as often as they say, see
                `estimators.recalibration`; at least 1000 are drawn for that.
            steps: the former name of `sampling_steps`.

        Raises:
            ValueError: x has other names or shapes than the training data, n < 0, sampling_steps where
                there is no choice, calibrated where the posterior is not recalibrated for them or together
                with given, or given has an unknown name, another shape, or a value outside of the prior's
                support.
            NotImplementedError: given, and the estimator has no conditionals of parameters.
            MemoryError: the memory of a GPU does not hold the draws of one pass.
        """
        if steps is not None:
            sampling_steps = renamed("steps", steps, "sampling_steps")
        if calibrated:
            if given:
                raise ValueError(
                    "calibrated = True: conditionals are not recalibrated; leave `given` out"
                )
            return self._recalibrated(x, n, sampling_steps=sampling_steps, seed=seed, bf16=bf16)
        x, single = self._batched(x)
        device = self._device()
        with self._evaluation(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            context, generator = self._context(x), self._start(n, sampling_steps, seed)
            known = self._known(given, len(context))
            if known is not None:
                context = self.module.conditioned(context, self.module.transform(known))
            draws = torch.empty(len(context) * n, len(self.names), device=device)
            for rows, theta in self._drawn(context, n, generator, sampling_steps):
                draws[rows] = theta if known is None else _with(known[rows // n], theta)
        draws = draws.view(len(context), n, len(self.names))
        return draws[0] if single else draws

    def _recalibrated(
        self, x: Observation, n: int, *, sampling_steps: SamplingSteps, **given: Any
    ) -> Tensor:
        if self.recalibration is None:
            raise ValueError(
                "calibrated = True: this posterior was not recalibrated; run `sbiflow evaluate -o RUN "
                "evaluate.calibrated=true`, or estimators.recalibrate(posterior, theta, x)"
            )
        steps = self.sampling_steps if sampling_steps is None else sampling_steps
        self.recalibration.require(steps)
        drawn = self.sample(x, max(n, DRAWS) if n else 0, sampling_steps=sampling_steps, **given)
        transform, single = marginal(self.module.transform, self.estimator), drawn.ndim == 2
        v = transform.scaled(drawn[None] if single else drawn)
        theta = transform.natural(self.recalibration.move(v, steps))[:, :n]
        return theta[0] if single else theta

    @torch.inference_mode()
    def summary(self, x: Observation) -> Tensor:
        """Return what the estimator keeps of observations, its context, shape (B, F).

        Arguments:
            x: see `sample`.
        """
        x, _ = self._batched(x)
        with self._evaluation():
            return self._context(x)

    @torch.inference_mode()
    def batches(
        self,
        x: Observation,
        n: int,
        *,
        sampling_steps: SamplingSteps = None,
        seed: int | None = None,
    ) -> Iterator[Tensor]:
        """Yield the draws of `sample` in portions (rows, D), one observation's after another's.

        Memory does not grow with n.
        """
        x, _ = self._batched(x)
        with self._evaluation():
            context, generator = self._context(x), self._start(n, sampling_steps, seed)
            for _, theta in self._drawn(context, n, generator, sampling_steps):
                yield theta

    def _drawn(
        self, context: Tensor, n: int, generator: torch.Generator, sampling_steps: SamplingSteps
    ) -> Iterator[tuple[Tensor, Tensor]]:
        def draw(part: Tensor) -> Tensor:
            return self.module.sample_latent(part, generator, sampling_steps)

        for rows in self._chunks(len(context) * n, context):
            part = context[rows // n]
            with draws_that_fit(draw, part):
                u = draw(part).float()
            yield rows, self.module.transform.inverse(u)

    @torch.no_grad()
    def sample_with_log_prob(
        self,
        x: Observation,
        n: int,
        *,
        sampling_steps: SamplingSteps = None,
        seed: int | None = None,
        steps: SamplingSteps = None,
    ) -> tuple[Tensor, Tensor]:
        """Return draws (B, n, D) and their own log p(theta | x), shape (B, n).

        Where a draw is a function of one noise, its density follows by change of variables, with
        the exact Jacobian; it is that of the draws, for any number of passes, where the function is
        one-to-one.

        Arguments:
            x, n, sampling_steps, seed, steps: see `sample`.

        Raises:
            NotImplementedError: the draws have no tractable density; the message says what has.
            ValueError: as in `sample`.
        """
        if steps is not None:
            sampling_steps = renamed("steps", steps, "sampling_steps")
        x, single = self._batched(x)
        with self._evaluation():
            self._check_bijection()
            context, generator = self._context(x), self._start(n, sampling_steps, seed)
            total, size = len(context) * n, len(self.names)
            draws = torch.empty(total, size, device=context.device)
            log_prob = torch.empty(total, device=context.device)
            for rows in self._chunks(total, context, size):
                u, density = self.module.sample_latent_with_log_prob(
                    context[rows // n], generator, sampling_steps
                )
                draws[rows] = self.module.transform.inverse(u)
                log_prob[rows] = density + self.module.transform.log_abs_det(draws[rows])
        draws, log_prob = draws.view(len(context), n, size), log_prob.view(len(context), n)
        return (draws[0], log_prob[0]) if single else (draws, log_prob)

    @torch.no_grad()
    def log_prob(self, theta: ArrayLike, x: Observation) -> Tensor:
        """Return log p(theta | x), shape (B, n); -inf outside the prior's bounds.

        Arguments:
            theta: parameters (B, n, D), or (n, D) of a single observation, natural units.
            x: see `sample`.

        Raises:
            NotImplementedError: the estimator has no tractable density; the message says what has.
            ValueError: theta or x have other shapes than the training data.
        """
        x, single = self._batched(x)
        theta = np.asarray(theta)[None] if single else np.asarray(theta)
        with self._evaluation():
            if self.module.has_log_prob:
                self._check_bijection()
            context = self._context(x)
            values = torch.as_tensor(np.asarray(theta), dtype=torch.float32).to(context.device)
            b, size = len(context), len(self.names)
            if values.ndim != 3 or len(values) != b or values.shape[2] != size:
                raise ValueError(
                    f"theta has shape {tuple(values.shape)}; valid is ({b}, n, {size})"
                )
            n, flat = values.shape[1], values.reshape(-1, size)
            log_prob = torch.empty(len(flat), device=context.device)
            transform = self.module.transform
            for rows in self._chunks(len(flat), context, size):
                part = flat[rows]
                density = self.module.log_prob_latent(transform(part), context[rows // n])
                density = density + transform.log_abs_det(part)
                log_prob[rows] = density.masked_fill(~transform.contains(part), -torch.inf)
        return log_prob.view(n) if single else log_prob.view(b, n)

    @torch.inference_mode()
    def summarise(self, x: Mapping[str, ArrayLike]) -> Tensor:
        """Return what the summary network makes of B observations, shape (B, ...).

        Arguments:
            x: outputs of B observations, each of shape (B, ...).
        """
        with self._evaluation():
            return self._context(x)

    def _batched(self, x: Observation) -> tuple[dict[str, np.ndarray], bool]:
        """Return the arrays of observations, absent ones filled with NaN, and whether it is a single one."""
        if self.module.has_conditionals and isinstance(x, Mapping):
            x = {**x, **absent_outputs(self.x_shapes, x)}
        try:
            return batched(self.x_shapes, x)
        except ValueError as error:
            left = isinstance(x, Mapping) and set(x) < set(self.x_shapes)
            if not left:
                raise
            raise ValueError(f"{error}; {self._needs_all()}") from None

    def _known(self, given: Mapping[str, ArrayLike] | None, count: int) -> Tensor | None:
        """Return the given parameters (B, D), NaN elsewhere; None where none are given."""
        if not given:
            return None
        transform = self.module.transform
        if not isinstance(transform, ParameterTransform):
            raise NotImplementedError(
                f"estimator {self.estimator!r} has no conditionals of parameters: leave `given` out"
            )
        return given_parameters(self.module.problem, transform, given, count)

    def _needs_all(self) -> str:
        return (
            f"estimator {self.estimator!r} needs all outputs: {CONDITIONALS} takes observations in which "
            "some are absent"
        )

    def _start(self, n: int, sampling_steps: SamplingSteps, seed: int | None) -> torch.Generator:
        """Return the source of a sample's random numbers."""
        if n < 0:
            raise ValueError(f"n = {n} draws; valid is 0 or more")
        if sampling_steps is not None and self.sampling_steps is None:
            raise ValueError(
                f"sampling_steps = {sampling_steps!r}: a draw of estimator {self.estimator!r} takes a "
                "fixed number of passes; leave sampling_steps out"
            )
        return torch.Generator().manual_seed(
            int(torch.randint(2**62, ())) if seed is None else seed
        )

    def _check_bijection(self) -> None:
        if not self.module.transform.bijective:
            raise NotImplementedError(
                f"bounds = {self.module.bounds!r} moves draws beyond the prior's bounds to others: that is no "
                "bijection and leaves no density; train with bounds probit or logit"
            )

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _context(self, x: Mapping[str, ArrayLike]) -> Tensor:
        shapes, device = self.x_shapes, self._device()
        if set(x) != set(shapes):
            raise ValueError(f"x has the arrays {sorted(x)}; valid are {sorted(shapes)}")
        outputs = {k: torch.as_tensor(np.asarray(x[k]), dtype=torch.float32) for k in shapes}
        if not outputs:
            return self.module.context({}, 1)
        counts = {len(v) if v.ndim else -1 for v in outputs.values()}
        for name, values in outputs.items():
            if tuple(values.shape[1:]) != shapes[name] or len(counts) != 1 or -1 in counts:
                wanted = ", ".join(["B", *map(str, shapes[name])])
                raise ValueError(
                    f"x[{name!r}] has shape {tuple(values.shape)}; valid is ({wanted})"
                )
            self._require_numbers(name, values)
        numbers = CHANNELS * sum(math.prod(shape) for shape in shapes.values())
        size = max(1, min(OBSERVATIONS, FLOATS // max(1, numbers)))
        parts = []
        for start in range(0, max(1, counts.pop()), size):
            part = {k: v[start : start + size].to(device) for k, v in outputs.items()}
            parts.append(self.module.summary(part).float())
        message = self.module.range.describe({k: v.to(device) for k, v in outputs.items()})
        if message:
            warnings.warn(message, OutOfRangeWarning, stacklevel=4)
        return torch.cat(parts)

    def _require_numbers(self, name: str, values: Tensor) -> None:
        if values.isinf().any():
            raise ValueError(f"x[{name!r}] holds infinity, or what float32 cannot hold")
        if not self.module.has_conditionals and values.isnan().any():
            raise ValueError(f"x[{name!r}] holds NaN; {self._needs_all()}")

    def _chunks(self, total: int, context: Tensor, factor: int = 1) -> Iterator[Tensor]:
        # The chunk's size depends on shapes alone, so that equal seeds give equal draws.
        numbers = factor * (self.module.row_memory + context.shape[1])
        rows = max(1, min(ROWS, FLOATS // numbers))
        for start in range(0, total, rows):
            yield torch.arange(start, min(start + rows, total), device=context.device)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        training = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(training)


def _with(known: Tensor, theta: Tensor) -> Tensor:
    """Return draws (rows, D) with the given values, which are no NaN, in their places."""
    return torch.where(known.isnan(), theta, known)
