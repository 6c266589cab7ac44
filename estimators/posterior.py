"""The posterior an estimator hands out: draws and densities in natural units."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.estimator import Estimator
from estimators.training_range import OutOfRangeWarning

ROWS = 8192  # rows in one network pass: larger ones leave the processor's cache
FLOATS = 2**24  # numbers that one pass may take
OBSERVATIONS = 1024  # observations in one pass of the summary network
CHANNELS = 64  # numbers that a summary network is taken to need for one of an observation

Steps = int | Sequence[float] | None


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

    @property
    def x_shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of an observation: name -> shape."""
        return dict(self.module.problem.x)

    @property
    def steps(self) -> int | None:
        """The network passes that a draw takes by default; None where there is no choice."""
        return self.module.steps

    @torch.inference_mode()
    def sample(
        self,
        x: Mapping[str, ArrayLike],
        n: int,
        *,
        steps: Steps = None,
        seed: int | None = None,
        bf16: bool = False,
    ) -> Tensor:
        """Return draws theta ~ p(theta | x), shape (B, n, D), natural units, float32.

        Equal seeds give equal draws, on every device up to rounding. An observation far outside of
        the training range gives an `OutOfRangeWarning`.

        Arguments:
            x: outputs of B observations, each of shape (B, ...).
            n: draws for one observation.
            steps: network passes, where the method has a choice; None is its default.
            seed: None takes torch's global generator.
            bf16: compute in bfloat16 where torch deems it safe.

        Raises:
            ValueError: x has other names or shapes than the training data, n < 0, or steps where
                there is no choice.
        """
        device = self._device()
        with self._evaluation(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            context, generator = self._context(x), self._start(n, steps, seed)
            draws = torch.empty(len(context) * n, len(self.names), device=device)
            for rows in self._chunks(len(draws), context):
                u = self.module.draw(context[rows // n], generator, steps).float()
                draws[rows] = self.module.transform.inverse(u)
        return draws.view(len(context), n, len(self.names))

    @torch.no_grad()
    def sample_with_log_prob(
        self,
        x: Mapping[str, ArrayLike],
        n: int,
        *,
        steps: Steps = None,
        seed: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return draws (B, n, D) and their own log p(theta | x), shape (B, n).

        Where a draw is a function of one noise, its density follows by change of variables, with
        the exact Jacobian; it is that of the draws, for any number of passes, where the function is
        one-to-one.

        Arguments:
            x, n, steps, seed: see `sample`.

        Raises:
            NotImplementedError: the draws have no tractable density; the message says what has.
            ValueError: as in `sample`.
        """
        with self._evaluation():
            self._check_bijection()
            context, generator = self._context(x), self._start(n, steps, seed)
            total, size = len(context) * n, len(self.names)
            draws = torch.empty(total, size, device=context.device)
            log_prob = torch.empty(total, device=context.device)
            for rows in self._chunks(total, context, size):
                u, density = self.module.draw_with_density(context[rows // n], generator, steps)
                draws[rows] = self.module.transform.inverse(u)
                log_prob[rows] = density + self.module.transform.log_abs_det(draws[rows])
        return draws.view(len(context), n, size), log_prob.view(len(context), n)

    @torch.no_grad()
    def log_prob(self, theta: ArrayLike, x: Mapping[str, ArrayLike]) -> Tensor:
        """Return log p(theta | x), shape (B, n); -inf outside the prior's bounds.

        Arguments:
            theta: parameters (B, n, D), natural units.
            x: outputs of B observations, each of shape (B, ...).

        Raises:
            NotImplementedError: the estimator has no tractable density; the message says what has.
            ValueError: theta or x have other shapes than the training data.
        """
        with self._evaluation():
            if type(self.module).density is not Estimator.density:
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
                density = self.module.density(transform(part), context[rows // n])
                density = density + transform.log_abs_det(part)
                log_prob[rows] = density.masked_fill(~transform.contains(part), -torch.inf)
        return log_prob.view(b, n)

    def _start(self, n: int, steps: Steps, seed: int | None) -> torch.Generator:
        """Return the source of a sample's random numbers."""
        if n < 0:
            raise ValueError(f"n = {n} draws; valid is 0 or more")
        if steps is not None and self.steps is None:
            raise ValueError(
                f"steps = {steps!r}: a draw of estimator {self.estimator!r} takes a fixed number of "
                "passes; leave steps out"
            )
        return torch.Generator().manual_seed(
            int(torch.randint(2**62, ())) if seed is None else seed
        )

    def _check_bijection(self) -> None:
        if not self.module.transform.bijective:
            raise NotImplementedError(
                f"bounds = {self.module.bounds!r} folds draws back at the prior's bounds: that is no "
                "bijection and leaves no density; train with bounds probit or logit"
            )

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _context(self, x: Mapping[str, ArrayLike]) -> Tensor:
        shapes, device = self.x_shapes, self._device()
        if set(x) != set(shapes):
            raise ValueError(f"x has the arrays {sorted(x)}; valid are {sorted(shapes)}")
        outputs = {k: torch.as_tensor(np.asarray(x[k]), dtype=torch.float32) for k in shapes}
        counts = {len(v) if v.ndim else -1 for v in outputs.values()}
        for name, values in outputs.items():
            if tuple(values.shape[1:]) != shapes[name] or len(counts) != 1 or -1 in counts:
                wanted = ", ".join(["B", *map(str, shapes[name])])
                raise ValueError(
                    f"x[{name!r}] has shape {tuple(values.shape)}; valid is ({wanted})"
                )
            if not values.isfinite().all():
                raise ValueError(f"x[{name!r}] holds NaN, infinity, or what float32 cannot hold")
        floats = CHANNELS * sum(math.prod(shape) for shape in shapes.values())
        size = max(1, min(OBSERVATIONS, FLOATS // max(1, floats)))
        parts = []
        for start in range(0, max(1, counts.pop()), size):
            part = {k: v[start : start + size].to(device) for k, v in outputs.items()}
            parts.append(self.module.summary(part).float())
        message = self.module.range.describe({k: v.to(device) for k, v in outputs.items()})
        if message:
            warnings.warn(message, OutOfRangeWarning, stacklevel=4)
        return torch.cat(parts)

    def _chunks(self, total: int, context: Tensor, factor: int = 1) -> Iterator[Tensor]:
        # The chunk's size depends on shapes alone, so that equal seeds give equal draws.
        floats = factor * (self.module.floats + context.shape[1])
        rows = max(1, min(ROWS, FLOATS // floats))
        return iter(torch.arange(total, device=context.device).split(rows)) if total else iter(())

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        training = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(training)
