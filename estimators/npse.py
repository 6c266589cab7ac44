"""Neural posterior score estimation: a diffusion model of the posterior.

A denoiser D estimates the parameter u from u_t = u + t z, z ~ N(0, I), at any noise level t:

    D(u_t, t; x) = u_t / (1 + t^2) + t / sqrt(1 + t^2) mean_m F_m(c_in u_t, x, t),   c_in = 1 / sqrt(1 + t^2)
    loss = mean_m E |F_m(c_in u_t, x, t) - F*|^2,   F* = (u - u_t / (1 + t^2)) sqrt(1 + t^2) / t

with log t normal. The score is (D - u_t) / t^2, and draws follow the probability flow

    du/dt = (u - D(u, t; x)) / t     from u_T = D(T z, T; x) + T z, z ~ N(0, I), to t = epsilon

D(T z, T; x) is nearly the posterior's mean. The flow that began at T z would leave it out, and so shift
draws by about as much as the mean weighs beside T.

Several networks F_m, trained side by side, average their answers: where simulations are few, what each
makes of the gaps between them differs, and the mean is closer to the truth than any.

Sharrock, Simons, Liu, Beaumont: Sequential Neural Score Estimation (2022), arXiv 2210.04872. Karras,
Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv
2206.00364. Lu, Zhou, Bao, Chen, Li, Zhu: DPM-Solver++ (2022), arXiv 2211.01095.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from estimators.consistency import decreasing
from estimators.estimator import Estimator, Phase, Problem, within
from estimators.network import free_form_network
from estimators.network.base import FreeForm
from estimators.network.time import LogTimeFeatures


class NPSE(Estimator):
    """Posterior estimator by denoising, drawn by a second-order solver of the probability flow.

    Arguments:
        problem: names, bounds and shapes.
        members: networks that are trained side by side and averaged.
        network: name of the F_m, see `estimators.network`.
        width, depth, dropout: their size and dropout; None is the network's own default.
        network_arguments: their other settings.
        features: frequencies of log t that a network sees.
        gain: factor on the inputs u and x of a network: the spatial frequencies it starts with.
        epsilon, T: the shortest and the longest time.
        p_mean, p_std: mean and standard deviation of log t in training.
        steps: network passes for a draw.
        bounds: treatment of bounded parameters, see `estimators.transform`.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        LookupError, ValueError, TypeError: an argument that is not valid.
    """

    learning_rate = 3e-3
    steps: int

    def __init__(
        self,
        problem: Problem,
        *,
        members: int = 4,
        network: str = "mlp",
        width: int | None = None,
        depth: int | None = None,
        dropout: float | None = None,
        network_arguments: Mapping[str, Any] | None = None,
        features: int = 16,
        gain: float = 3.0,
        epsilon: float = 2e-3,
        T: float = 10.0,
        p_mean: float = -2.0,
        p_std: float = 2.0,
        steps: int = 30,
        bounds: str = "reflect",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("members", members, 1, integer=True)
        within("features", features, 1, integer=True)
        within("gain", gain, 1e-6)
        within("epsilon", epsilon, 1e-6)
        within("T", T, 2 * epsilon)
        within("p_mean", p_mean, -math.inf)
        within("p_std", p_std, 1e-6)
        within("steps", steps, 1, integer=True)
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        self.gain, self.epsilon, self.T = gain, epsilon, T
        self.p_mean, self.p_std, self.steps = p_mean, p_std, steps
        self.features = LogTimeFeatures(features)
        given = {"width": width, "depth": depth, "dropout": dropout, **(network_arguments or {})}
        self.denoisers = nn.ModuleList(self._network(network, given) for _ in range(members))

    def _network(self, name: str, given: Mapping[str, Any]) -> FreeForm:
        sizes = self.problem.size, self.summary.width, self.features.width
        return free_form_network(name, *sizes, given)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("training", 1.0, list(self.parameters()), best=True),)

    @property
    def floats(self) -> int:
        return max(network.floats for network in self._members())

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.transform(theta), self.gain * self.summary(x)
        total = torch.zeros((), device=u.device)
        for network in self._members():
            level = torch.randn(len(u), 1, device=u.device).mul_(self.p_std).add_(self.p_mean)
            t = level.clamp_(math.log(self.epsilon), math.log(self.T)).exp_()
            noisy = torch.addcmul(u, t, torch.randn_like(u))
            variance = t.square() + 1
            target = (u - noisy / variance) * variance.sqrt() / t
            masks = network.masks(len(u), u.device)
            answer = network(*self._inputs(noisy, context, t), masks)
            total = total + (answer - target).square().mean()
        return total / len(self.denoisers)

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return D(u_t, t; x), shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x times the gain, shape (rows, C).
            t: shape (rows, 1) or (1, 1).
        """
        inputs = self._inputs(noisy, context, t)
        answers = [network(*inputs) for network in self._members()]
        answer = torch.stack(answers).mean(0) if len(answers) > 1 else answers[0]
        variance = t.square() + 1
        return torch.addcmul(noisy / variance, t * variance.rsqrt(), answer)

    def _inputs(self, noisy: Tensor, context: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = self.features(t[:, 0]).expand(len(noisy), -1)
        return self.gain * (t.square() + 1).rsqrt() * noisy, context, time

    def _members(self) -> list[FreeForm]:
        return list(self.denoisers)  # type: ignore[arg-type]

    def draw(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> Tensor:
        return self.push(self.noise(context, generator), context, steps)

    def push(self, z: Tensor, context: Tensor, steps: int | Sequence[float] | None) -> Tensor:
        times = z.new_tensor([self.times(self.steps if steps is None else steps)])
        context = self.gain * context
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
            context: summary of x times the gain, shape (rows, C).
            times: decreasing, shape (rows, N) or (1, N).

        Yields:
            u_k at the times, N of shape (rows, D), each when it is reached.
        """
        yield u
        shares = times[:, 1:] / times[:, :-1]
        steps = -shares.log()
        last = u
        for k in range(shares.shape[1]):
            ahead = answer = self.denoise(u, context, times[:, k : k + 1])
            if k:
                ratio = steps[:, k] / (2 * steps[:, k - 1])
                ahead = answer + (answer - last) * ratio.unsqueeze(1)
            u = torch.lerp(ahead, u, shares[:, k : k + 1])
            yield u
            last = answer

    def times(self, steps: int | Sequence[float]) -> list[float]:
        """Return the decreasing times of the network passes, from T to epsilon on a geometric grid.

        Arguments:
            steps: the number of passes, or the times themselves.

        Raises:
            ValueError: no pass, or times that leave [epsilon, T] or do not decrease.
        """
        if not isinstance(steps, int):
            return decreasing(steps, self.epsilon, self.T)
        within("steps", steps, 1, integer=True)
        ratio = (self.epsilon / self.T) ** (1 / max(steps - 1, 1))
        return [self.T * ratio**k for k in range(steps)]
