"""What estimators by denoising share: draws along the probability flow.

With D(u_t, t; x) the mean of u given u_t = u + t z, z ~ N(0, I), draws follow

    du/dt = (u - D(u, t; x)) / t     from u_T = D(T z, T; x) + T z, z ~ N(0, I), to t = epsilon

D(T z, T; x) is nearly the posterior's mean. A flow that began at T z would omit this mean, and shift draws by
the mean divided by about T.

Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv
2206.00364. Lu, Zhou, Bao, Chen, Li, Zhu: DPM-Solver++ (2022), arXiv 2211.01095.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from estimators.checks import within
from estimators.consistency import decreasing_times, times_apart
from estimators.estimator import Estimator
from estimators.sampling_steps import SamplingSteps
from estimators.settings import Float, PositiveFloat, PositiveInt, Settings


class DiffusionSettings(Settings):
    """Settings of `DiffusionEstimator`.

    Arguments:
        features: frequencies of log t that a network sees.
        epsilon, T: the shortest and the longest time.
        p_mean, p_std: mean and standard deviation of log t in training.
        sampling_steps: network passes for a draw.
    """

    features: PositiveInt = 16
    epsilon: PositiveFloat = 2e-3
    T: Float = 10.0
    p_mean: Float = -2.0
    p_std: PositiveFloat = 2.0
    sampling_steps: PositiveInt = 30

    @model_validator(mode="after")
    def _times_are_apart(self) -> Self:
        times_apart(self.epsilon, self.T)
        return self


class DiffusionEstimator(Estimator):
    """Base of estimators that draw by a denoiser.

    A subclass calls `follow`, and defines `denoise`.
    """

    settings: DiffusionSettings
    epsilon: float
    T: float
    sampling_steps: int

    def follow(self, settings: DiffusionSettings) -> None:
        """Take times and sampling steps from settings."""
        self.settings, self.epsilon, self.T = settings, settings.epsilon, settings.T
        self.sampling_steps = settings.sampling_steps

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return D(u_t, t; x), shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x, shape (rows, C).
            t: shape (rows, 1) or (1, 1).
        """
        raise NotImplementedError

    def levels(self, rows: int, device: torch.device) -> Tensor:
        """Return random times for training, shape (rows, 1): log t is normal, and kept in its range."""
        level = torch.randn(rows, 1, device=device)
        level = level.mul_(self.settings.p_std).add_(self.settings.p_mean)
        return level.clamp_(math.log(self.epsilon), math.log(self.T)).exp_()

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

    def moved_times(self, rows: int, points: int, device: torch.device) -> Tensor:
        """Return geometric grids from T to epsilon whose inner times are moved at random, (rows, points + 1)."""
        place = torch.arange(points + 1, device=device).repeat(rows, 1)
        place = place - torch.rand(rows, 1, device=device)
        place[:, 0], place[:, -1] = 0.0, points - 1.0
        return self.T * (self.epsilon / self.T) ** (place / (points - 1))

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
