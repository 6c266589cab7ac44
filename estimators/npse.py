"""Neural posterior score estimation: a diffusion model of the posterior.

A denoiser D estimates the parameter u from u_t = u + t z, z ~ N(0, I), at any noise level t:

    D(u_t, t; x) = c_skip(t) u_t + c_out(t) mean_m F_m(a c_in(t) u_t, a x, t)
    loss = mean_m E |F_m(a c_in u_t, a x, t) - F*|^2,   F* = (u - c_skip u_t) / c_out

with log t normal, the coefficients of `estimators.preconditioning` for s = 1, e = 0, and the input scale a.
The score is (D - u_t) / t^2, and draws follow the probability flow

    du/dt = (u - D(u, t; x)) / t     from u_T = D(T z, T; x) + T z, z ~ N(0, I), to t = epsilon

D(T z, T; x) is nearly the posterior's mean. A flow that began at T z would omit this mean, and shift draws by
the mean divided by about T.

Several networks F_m are trained together and their outputs averaged: with few simulations each network
interpolates differently between them, and the mean has a smaller error than each.

Sharrock, Simons, Liu, Beaumont: Sequential Neural Score Estimation (2022), arXiv 2210.04872. Karras,
Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv
2206.00364. Lu, Zhou, Bao, Chen, Li, Zhu: DPM-Solver++ (2022), arXiv 2211.01095.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from estimators.checks import within
from estimators.consistency import decreasing_times, times_apart
from estimators.estimator import Estimator, Phase
from estimators.network import free_form_network
from estimators.network.base import FreeForm
from estimators.network.inputs import NetworkInputs
from estimators.network.time import LogTimeFeatures
from estimators.posterior import SamplingSteps
from estimators.preconditioning import Preconditioning
from estimators.problem import InferenceProblem
from estimators.settings import EstimatorSettings, Float, NetworkSpec, PositiveFloat, PositiveInt


class NPSESettings(EstimatorSettings, NetworkSpec):
    """Settings of `NPSE`.

    Arguments:
        members: networks F_m, of one specification, that are trained together and averaged.
        features: frequencies of log t that a network sees.
        input_scale: a, factor on the inputs u and x of a network: the spatial frequencies it starts with.
        epsilon, T: the shortest and the longest time.
        p_mean, p_std: mean and standard deviation of log t in training.
        sampling_steps: network passes for a draw.
    """

    members: PositiveInt = 4
    features: PositiveInt = 16
    input_scale: PositiveFloat = 3.0
    epsilon: PositiveFloat = 2e-3
    T: Float = 10.0
    p_mean: Float = -2.0
    p_std: PositiveFloat = 2.0
    sampling_steps: PositiveInt = 30

    @model_validator(mode="after")
    def _times_are_apart(self) -> Self:
        times_apart(self.epsilon, self.T)
        return self


class NPSE(Estimator):
    """Posterior estimator by denoising, drawn by a second-order solver of the probability flow.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `NPSESettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    learning_rate = 3e-3
    settings_type = NPSESettings
    sampling_steps: int

    def __init__(self, problem: InferenceProblem, settings: NPSESettings) -> None:
        super().__init__(problem, settings)
        self.settings, self.input_scale = settings, settings.input_scale
        self.epsilon, self.T = settings.epsilon, settings.T
        self.sampling_steps = settings.sampling_steps
        self.preconditioning = Preconditioning()
        self.inputs = NetworkInputs(LogTimeFeatures(settings.features), settings.input_scale)
        sizes = problem.latent_size, self.summary.width, self.inputs.features.width
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

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u = self.transform(theta)
        context = self.inputs.context(self.context(x, len(u)))
        total = torch.zeros((), device=u.device)
        for network in self._members():
            level = torch.randn(len(u), 1, device=u.device)
            level = level.mul_(self.settings.p_std).add_(self.settings.p_mean)
            t = level.clamp_(math.log(self.epsilon), math.log(self.T)).exp_()
            noisy = torch.addcmul(u, t, torch.randn_like(u))
            target = self.preconditioning.target(u, noisy, t)
            masks = network.masks(len(u), u.device)
            scaled = self.inputs.parameter(noisy, self.preconditioning.c_in(t))
            output = network(scaled, context, self.inputs.time(t, len(u)), masks)
            total = total + (output - target).square().mean()
        return total / len(self.denoisers)

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return D(u_t, t; x), shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x, shape (rows, C).
            t: shape (rows, 1) or (1, 1).
        """
        scales = self.preconditioning
        inputs = self.inputs(noisy, context, t, scales.c_in(t))
        outputs = [network(*inputs) for network in self._members()]
        output = torch.stack(outputs).mean(0) if len(outputs) > 1 else outputs[0]
        return torch.addcmul(scales.c_skip(t, noisy), scales.c_out(t), output)

    def _members(self) -> list[FreeForm]:
        return list(self.denoisers)  # type: ignore[arg-type]

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        return self.transport(self.noise(context, generator), context, sampling_steps)

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        times = z.new_tensor(
            [self.times(self.sampling_steps if sampling_steps is None else sampling_steps)]
        )
        u = self.denoise(times[:, :1] * z, context, times[:, :1])
        if times.shape[1] == 1:
            return u
        for point in self.path(u + times[:, 1:2] * z, context, times[:, 1:]):
            u = point
        return self.denoise(u, context, times[:, -1:])

    def path(self, u: Tensor, context: Tensor, times: Tensor) -> Iterator[Tensor]:
        """Follow the probability flow by DPM-Solver++(2M), one network pass for each step.

            u_{k+1} = q u_k + (1 - q) D',   D' = D_k + (D_k - D_{k-1}) h_k / (2 h_{k-1})
            q = t_{k+1} / t_k,   h_k = log(t_k / t_{k+1})

        Arguments:
            u: where it begins, shape (rows, D).
            context: summary of x, shape (rows, C).
            times: decreasing, shape (rows, N) or (1, N).

        Yields:
            u_k at the times, N of shape (rows, D), each when it is reached.
        """
        yield u
        shares = times[:, 1:] / times[:, :-1]
        gaps = -shares.log()
        previous = u
        for k in range(shares.shape[1]):
            extrapolated = denoised = self.denoise(u, context, times[:, k : k + 1])
            if k:
                ratio = gaps[:, k] / (2 * gaps[:, k - 1])
                extrapolated = denoised + (denoised - previous) * ratio.unsqueeze(1)
            u = torch.lerp(extrapolated, u, shares[:, k : k + 1])
            yield u
            previous = denoised

    def times(self, sampling_steps: int | Sequence[float]) -> list[float]:
        """Return the decreasing times of the network passes, from T to epsilon on a geometric grid.

        Arguments:
            sampling_steps: the number of passes, or the times themselves.

        Raises:
            ValueError: no pass, or times that leave [epsilon, T] or do not decrease.
        """
        if not isinstance(sampling_steps, int):
            return decreasing_times(sampling_steps, self.epsilon, self.T)
        within("sampling_steps", sampling_steps, 1, integer=True)
        ratio = (self.epsilon / self.T) ** (1 / max(sampling_steps - 1, 1))
        return [self.T * ratio**k for k in range(sampling_steps)]
