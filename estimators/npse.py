"""Neural posterior score estimation: a diffusion model of the posterior.

A denoiser D estimates the parameter u from u_t = u + t z, z ~ N(0, I), at any noise level t:

    D(u_t, t; x) = c_skip(t) u_t + c_out(t) mean_m F_m(a c_in(t) u_t, a x, t)
    loss = mean_m E |F_m(a c_in u_t, a x, t) - F*|^2,   F* = (u - c_skip u_t) / c_out

with log t normal, the coefficients of `estimators.preconditioning` for s = 1, e = 0, and the input scale a.
The score is (D - u_t) / t^2, and draws follow the probability flow, see `estimators.diffusion`.

Several networks F_m are trained together and their outputs averaged: with few simulations each network
interpolates differently between them, and the mean has a smaller error than each.

Sharrock, Simons, Liu, Beaumont: Sequential Neural Score Estimation (2022), arXiv 2210.04872. Karras,
Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv
2206.00364.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.centre import Centre
from estimators.diffusion import DiffusionEstimator, DiffusionSettings
from estimators.estimator import Estimator, Phase
from estimators.network import free_form_network
from estimators.network.base import FreeForm
from estimators.network.inputs import NetworkInputs
from estimators.network.time import LogTimeFeatures
from estimators.preconditioning import Preconditioning
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import EstimatorSettings, Flag, NetworkSpec, PositiveFloat, PositiveInt


class NPSESettings(EstimatorSettings, NetworkSpec, DiffusionSettings):
    """Settings of `NPSE`: those of `estimators.diffusion.DiffusionSettings`, and its own.

    Arguments:
        members: networks F_m, of one specification, that are trained together and averaged.
        input_scale: a, factor on the inputs u and x of a network: the spatial frequencies it starts with.
        centre: whether networks learn u relative to its regression on x, see `estimators.centre`; for
            summaries without weights.
    """

    members: PositiveInt = 4
    input_scale: PositiveFloat = 3.0
    centre: Flag = False


class NPSE(DiffusionEstimator):
    """Posterior estimator by denoising, drawn by a second-order solver of the probability flow.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `NPSESettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    takes_simplexes = True

    learning_rate = 3e-3
    settings_type = NPSESettings

    def __init__(self, problem: InferenceProblem, settings: NPSESettings) -> None:
        super().__init__(problem, settings)
        self.input_scale = settings.input_scale
        self.follow(settings)
        self.preconditioning = Preconditioning()
        self.inputs = NetworkInputs(LogTimeFeatures(settings.features), settings.input_scale)
        sizes = problem.latent_size, self.summary.width, self.inputs.features.width
        self.centre = centre_of(self) if settings.centre else None
        self.denoisers = nn.ModuleList(
            free_form_network(settings.network, *sizes, settings.network_settings, problem.shape)
            for _ in range(settings.members)
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("training", 1.0, list(self.parameters()), best=True),)

    @property
    def row_memory(self) -> int:
        return max(network.row_memory for network in self._members())

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        super().standardise(theta, x)
        if self.centre is not None:
            self.centre.fit(self.transform(theta), self.context(x, len(theta)))

    def latent(self, theta: Tensor, context: Tensor) -> Tensor:
        """Return what the networks learn, shape (rows, D): u, or u relative to its regression on x."""
        u = self.transform(theta)
        return u if self.centre is None else self.centre(u, context)

    def placed(self, v: Tensor, context: Tensor) -> Tensor:
        """Return u, shape (rows, D), of what the networks drew."""
        return v if self.centre is None else self.centre.inverse(v, context)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        context = self.context(x, len(theta))
        u = self.latent(theta, context)
        context = self.inputs.context(context)
        total = torch.zeros((), device=u.device)
        for network in self._members():
            t = self.levels(len(u), u.device)
            noisy = torch.addcmul(u, t, torch.randn_like(u))
            target = self.preconditioning.target(u, noisy, t)
            masks = network.masks(len(u), u.device)
            scaled = self.inputs.parameter(noisy, self.preconditioning.c_in(t))
            output = network(scaled, context, self.inputs.time(t, len(u)), masks)
            total = total + (output - target).square().mean()
        return total / len(self.denoisers)

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        scales = self.preconditioning
        inputs = self.inputs(noisy, context, t, scales.c_in(t))
        outputs = [network(*inputs) for network in self._members()]
        output = torch.stack(outputs).mean(0) if len(outputs) > 1 else outputs[0]
        return torch.addcmul(scales.c_skip(t, noisy), scales.c_out(t), output)

    def _members(self) -> list[FreeForm]:
        return list(self.denoisers)  # type: ignore[arg-type]

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        return self.placed(super().transport(z, context, sampling_steps), context)


def centre_of(estimator: Estimator) -> Centre:
    """Return the centre of an estimator, not yet fitted.

    Raises:
        ValueError: its summary has weights, with which the regression would have to move.
    """
    if any(True for _ in estimator.summary.parameters()):
        raise ValueError(
            "centre = true: the summary network is trained; valid are summaries without weights: "
            "identity, tabular"
        )
    return Centre(estimator.summary.width, estimator.problem.latent_size)
