"""The posterior an estimator hands out: draws and densities in natural units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.estimator import Estimator

ROWS = 8192  # rows in one network pass: larger ones leave the processor's cache
FLOATS = 2**24  # numbers that the contexts of one pass may take
OBSERVATIONS = 1024  # observations in one pass of the summary network


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

    @torch.inference_mode()
    def sample(
        self,
        x: Mapping[str, ArrayLike],
        n: int,
        *,
        steps: int | Sequence[float] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Return draws theta ~ p(theta | x), shape (B, n, D), natural units, float32.

        Arguments:
            x: outputs of B observations, each of shape (B, ...).
            n: draws for one observation.
            steps: network passes, where the method has a choice; None is its default.
            seed: equal seeds give equal draws; None takes torch's global generator.

        Raises:
            ValueError: x has other names or shapes than the training data, or n < 0.
        """
        if n < 0:
            raise ValueError(f"n = {n} draws; valid is 0 or more")
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
        with self._evaluation():
            context = self._context(x)
            draws = torch.empty(len(context) * n, len(self.names), device=context.device)
            for rows in self._chunks(len(draws), context):
                u = self.module.draw(context[rows // n], generator, steps)
                draws[rows] = self.module.transform.inverse(u)
        return draws.view(len(context), n, len(self.names))

    @torch.inference_mode()
    def log_prob(self, theta: ArrayLike, x: Mapping[str, ArrayLike]) -> Tensor:
        """Return log p(theta | x), shape (B, n); -inf outside the prior's bounds.

        Arguments:
            theta: parameters (B, n, D), natural units.
            x: outputs of B observations, each of shape (B, ...).

        Raises:
            NotImplementedError: the estimator has no tractable density.
            ValueError: theta or x have other shapes than the training data.
        """
        with self._evaluation():
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
            for rows in self._chunks(len(flat), context):
                part = flat[rows]
                density = self.module.density(transform(part), context[rows // n])
                density = density + transform.log_abs_det(part)
                log_prob[rows] = density.masked_fill(~transform.contains(part), -torch.inf)
        return log_prob.view(b, n)

    def _context(self, x: Mapping[str, ArrayLike]) -> Tensor:
        shapes = self.module.problem.x
        if set(x) != set(shapes):
            raise ValueError(f"x has the arrays {sorted(x)}; valid are {sorted(shapes)}")
        device = next(self.module.parameters()).device
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
        parts = [
            self.module.summary({k: v[i : i + OBSERVATIONS].to(device) for k, v in outputs.items()})
            for i in range(0, max(1, counts.pop()), OBSERVATIONS)
        ]
        return torch.cat(parts)

    def _chunks(self, total: int, context: Tensor) -> Iterator[Tensor]:
        # The chunk's size depends on shapes alone, so that equal seeds give equal draws.
        rows = max(1, min(ROWS, FLOATS // max(1, context.shape[1])))
        return iter(torch.arange(total, device=context.device).split(rows)) if total else iter(())

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        training = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(training)
