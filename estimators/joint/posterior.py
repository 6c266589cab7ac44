"""The posterior of a joint estimator, which has the likelihood as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.joint.density import log_density
from estimators.observation import Observation
from estimators.posterior import Posterior
from estimators.sampling_steps import SamplingSteps


class JointPosterior(Posterior):
    """All conditionals of one joint distribution, amortised: p(theta | x) first of all.

    `sample` takes observations with absent outputs, NaN or left out, and `given` values of parameters.
    """

    module: Any  # estimators.joint.estimator.Joint, or one distilled from it

    @torch.inference_mode()
    @torch.inference_mode()
    def emulate(
        self,
        theta: ArrayLike,
        n: int,
        *,
        sampling_steps: SamplingSteps = None,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Return draws x ~ p(x | theta) in place of simulations, each output (B, n, ...).

        Of a single theta, shape (D,), they have the shape (n, ...).

        Arguments:
            theta: parameters (B, D), or (D,), natural units.
            n: draws for each theta.
            sampling_steps: network passes; None is the default.
            seed: None takes torch's global generator.

        Raises:
            ValueError: theta has another shape or lies outside of the prior's support, or n < 0.
        """
        values, single = self._parameters(theta)
        with self._evaluation():
            generator = self._start(n, sampling_steps, seed)
            variables = self.module.summary
            context = variables.likelihood(self.module.transform(values))
            total = len(context) * n
            y = context.new_empty(total, variables.x_size)
            for rows in self._chunks(total, context):
                drawn = self.module.sample_variables(context[rows // n], generator, sampling_steps)
                y[rows] = drawn[:, variables.theta_size :].float()
            x = variables.natural(y)
        if single:
            return x
        return {name: part.view(len(values), n, *part.shape[1:]) for name, part in x.items()}

    @torch.no_grad()
    def log_likelihood(self, theta: ArrayLike, x: Observation) -> Tensor:
        """Return log p(x | theta) of B pairs, shape (B,); that of the present outputs where some are absent.

        It is computed along the probability flow of the denoiser, see `estimators.joint.density`.

        Arguments:
            theta: parameters (B, D), or (D,) of a single x, natural units.
            x: see `sample`.

        Raises:
            ValueError: theta or x have other shapes than the training data, or theta lies outside of the
                prior's support.
        """
        outputs, _ = self._batched(x)
        values, single = self._parameters(theta)
        with self._evaluation():
            observed = self._context(outputs)
            if len(observed) != len(values):
                raise ValueError(f"theta has {len(values)} rows, x has {len(observed)}")
            variables = self.module.summary
            context = variables.likelihood(self.module.transform(values), observed)
            y, _ = variables.split(observed)
            found = torch.empty(len(values), device=context.device)
            for rows in self._chunks(len(values), context, variables.x_size):
                found[rows] = log_density(self.module.denoiser, y[rows], context[rows])
            found += variables.log_abs_det(context)
        return found[0] if single else found

    def _parameters(self, theta: ArrayLike) -> tuple[Tensor, bool]:
        """Return parameters (B, D), and whether a single one was given."""
        values = torch.as_tensor(np.asarray(theta), dtype=torch.float32).to(self._device())
        single, size = values.ndim == 1, len(self.names)
        values = values[None] if single else values
        if values.ndim != 2 or values.shape[1] != size:
            raise ValueError(
                f"theta has shape {tuple(np.shape(theta))}; valid is (B, {size}), or ({size},)"
            )
        inside = self.module.transform.contains(values)
        if not inside.all():
            row = int((~inside).nonzero()[0, 0])
            raise ValueError(
                f"theta = {values[row].tolist()} (row {row}) lies outside of the prior's support"
            )
        return values, single
