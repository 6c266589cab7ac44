"""What the few-step methods share: one network, one probability flow, one optional teacher.

A noisy parameter u_t = u + t z, z ~ N(0, I), moves along du/dt = (u - D) / t, where D is the posterior
mean of u given u_t and x. Every method here needs D at random points alone. It has two sources:

    D = u, the parameter that was simulated           (training: right on average, noisy)
    D = the mean of trained teachers' denoisers       (distillation)

so that each method is written once and serves for both. The network G has a denoiser's coordinates,

    answer = cos(a) y + sin(a) G(y, x, t),   y = u_t / sqrt(1 + t^2),   a = arctan t

which are those of `estimators.npse`; it can start from a trained denoiser's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import estimators
from estimators.consistency import ConsistencyEstimator
from estimators.ensemble import Ensemble
from estimators.estimator import Estimator, Phase
from estimators.fmpe import FMPE
from estimators.network import free_form_network
from estimators.network.time import LogTimeFeatures
from estimators.npse import NPSE
from estimators.problem import InferenceProblem
from estimators.settings import (
    EstimatorSettings,
    Exponent,
    Float,
    NetworkSpec,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

H = 5e-3  # of log t, in differences


class FewStepSettings(EstimatorSettings, NetworkSpec):
    """Settings of the few-step methods.

    Arguments:
        teacher: folder of a saved `npse`, `fmpe` or `ensemble` of these, where D comes from; None: from
            the simulations.
        start: folder of a saved `npse` with whose first network G starts; None: at random.
        features: frequencies of log t that G sees.
        input_scale: factor on the inputs of G.
        epsilon, T: the shortest and the longest time.
        rho: exponent of the times of several passes.
        p_mean, p_std: mean and standard deviation of log t in training.
        jitter: random vectors added to the summary of x under a teacher, in standard deviations.
        sampling_steps: network passes for a draw.
        bounds: treatment of bounded parameters; a teacher's must be the same.
    """

    teacher: str | None = None
    start: str | None = None
    features: PositiveInt = 16
    input_scale: Float = 6.0
    epsilon: PositiveFloat = 2e-3
    T: PositiveFloat = 10.0
    rho: Exponent = 7.0
    p_mean: Float = -1.0
    p_std: PositiveFloat = 2.0
    jitter: NonNegativeFloat = 0.05
    sampling_steps: PositiveInt = 10


class FewStep(ConsistencyEstimator):
    """Base of the few-step methods: the network, the source of D, and draws.

    A subclass defines `loss`.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `FewStepSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    settings_type: type[FewStepSettings] = FewStepSettings

    def __init__(self, problem: InferenceProblem, settings: FewStepSettings) -> None:
        super().__init__(problem, settings)
        self.input_scale, self.sampling_steps = settings.input_scale, settings.sampling_steps
        self.epsilon, self.T, self.rho = settings.epsilon, settings.T, settings.rho
        self.p_mean, self.p_std = settings.p_mean, settings.p_std
        self.features = LogTimeFeatures(settings.features)
        sizes = problem.size, self.summary.width, self.times_seen * self.features.width
        self.network = free_form_network(settings.network, *sizes, settings.network_settings)
        teacher, bounds = settings.teacher, settings.bounds
        self._teacher = (teacher and _rested(teacher, bounds),)  # a tuple: no module of this one
        self.jitter = settings.jitter if teacher else 0.0
        if settings.start is not None:
            self._start(_rested(settings.start, bounds))

    times_seen = 1  # times that G sees

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("training", 1.0, list(self.network.parameters())),)

    @property
    def row_memory(self) -> int:
        return self.network.row_memory

    def _start(self, denoiser: Estimator) -> None:
        """Copy a denoiser's weights; further times than its own begin without effect."""
        assert isinstance(denoiser, NPSE)
        found = denoiser.denoisers[0].state_dict()
        for name, value in self.network.state_dict().items():
            if value.shape == found[name].shape:
                value.copy_(found[name])
            else:
                value.zero_()[:, : found[name].shape[1]] = found[name]

    def points(self, theta: Tensor, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return u (rows, D) and the summary of x (rows, C), moved by random vectors."""
        context = self.summary(x)
        if self.jitter:
            spread = self.jitter * context.std(0, correction=0)
            context = torch.addcmul(context, spread, torch.randn_like(context))
        return self.transform(theta), context

    def noise_levels(self, u: Tensor) -> Tensor:
        """Return times t (rows, 1), log t normal and kept within epsilon and T."""
        level = self.p_mean + self.p_std * torch.randn(len(u), 1, device=u.device)
        return level.clamp(math.log(self.epsilon), math.log(self.T)).exp()

    @torch.no_grad()
    def clean(self, u: Tensor, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return D, shape (rows, D): u itself, or what the teacher takes it for."""
        (teacher,) = self._teacher
        return u if teacher is None else denoised(teacher, noisy, context, t)

    def below(self, u: Tensor, noisy: Tensor, context: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Return u_r, one step of Heun's method from u_t; of Euler's where r < epsilon.

        Without a teacher D = u, and either step is exact: u_r = u + r z.
        """
        slope = (noisy - self.clean(u, noisy, context, t)) / t
        ahead, end = noisy + (r - t) * slope, r.clamp(min=self.epsilon)
        second = (ahead - self.clean(u, ahead, context, end)) / end
        return torch.where(r >= self.epsilon, noisy + (r - t) * 0.5 * (slope + second), ahead)

    def answer(
        self, noisy: Tensor, context: Tensor, *times: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return cos(a) y + sin(a) G, shape (rows, D); the first of the times (rows, 1) is t."""
        t = times[0]
        y = noisy * (1 + t.square()).rsqrt()
        sine, cosine = t * (1 + t.square()).rsqrt(), (1 + t.square()).rsqrt()
        return cosine * y + sine * self.output(y, context, *times, masks=masks)

    def output(
        self, y: Tensor, context: Tensor, *times: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return G, shape (rows, D), for times (rows, 1)."""
        seen = torch.cat([self.features(time[:, 0]) for time in times], dim=1)
        return self.network(self.input_scale * y, self.input_scale * context, seen, masks)

    def f(self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the consistency function, (epsilon / t) u_t + (1 - epsilon / t) answer, (rows, D)."""
        kept = self.epsilon / t
        return kept * noisy + (1 - kept) * self.answer(noisy, context, *self.seen(t), masks=masks)

    def seen(self, t: Tensor) -> tuple[Tensor, ...]:
        """Return the times that G sees in a jump from t to epsilon."""
        return (t,)

    def consistency_function(
        self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        return self.f(noisy, context, t.expand(len(noisy), 1), masks)


@torch.no_grad()
def along_path(
    f: Callable[[Tensor, Tensor], Tensor], u: Tensor, t: Tensor, slope: Tensor
) -> Tensor:
    """Return the derivative of f(u_t, t) by log t along the flow, shape (rows, D).

        df/dlog t = (f(u + h t slope, t e^h) - f(u - h t slope, t e^-h)) / 2 h,   slope = du/dt

    A difference of two passes takes a fourth of forward differentiation's time here, and is as good in
    float32, where f is smooth in log t.
    """
    step = H * t * slope
    late, early = f(u + step, t * math.exp(H)), f(u - step, t * math.exp(-H))
    return (late - early) / (2 * H)


def denoised(teacher: Estimator, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
    """Return a teacher's D at u_t, shape (rows, D); the mean of its members' where it has some.

    Flow matching has the time s = 1 / (1 + t), its point s u_t, and D = s u_t + (1 - s) v.
    """
    if isinstance(teacher, Ensemble):
        answers = [denoised(member, noisy, context, t) for member in teacher.members]
        return torch.stack(answers).mean(0)
    if isinstance(teacher, FMPE):
        s = 1 / (1 + t)
        velocity = teacher.velocity(s * noisy, context, s[:, 0])
        return s * noisy + (1 - s) * velocity
    assert isinstance(teacher, NPSE)
    return teacher.denoise(noisy, context, t)


def _rested(path: str, bounds: str) -> Estimator:
    """Return a saved estimator, which no longer learns."""
    module = estimators.load(path).module
    if not isinstance(module, NPSE | FMPE | Ensemble):
        raise TypeError(f"teacher {path}: {module.name!r}; valid: npse, fmpe, ensemble")
    if module.bounds != bounds:
        raise ValueError(f"teacher {path} has bounds {module.bounds!r}, this one {bounds!r}")
    return module.eval().requires_grad_(False)
