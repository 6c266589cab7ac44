"""The scales of a consistency function and of a denoiser at each noise level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """The coefficients of f(u_t, t) = c_skip(t) u_t + c_out(t) F(c_in(t) u_t, t), u_t = u + t z.

        c_skip = s^2 / ((t - e)^2 + s^2),   c_out = s (t - e) / sqrt(s^2 + t^2)
        c_in   = 1 / sqrt(s^2 + t^2)

    At t = e, f is the identity: a consistency function has e > 0 as its shortest time, a denoiser e = 0.
    F sees inputs of unit variance where u has the standard deviation s.

    Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models
    (2022), arXiv 2206.00364. Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469.

    Arguments:
        sigma: s.
        epsilon: e.
    """

    sigma: float = 1.0
    epsilon: float = 0.0

    def c_skip(self, t: Tensor, values: Tensor | float = 1.0) -> Tensor:
        """Return c_skip(t) times `values`."""
        return self.sigma**2 * values / ((t - self.epsilon).square() + self.sigma**2)

    def c_out(self, t: Tensor) -> Tensor:
        """Return c_out(t)."""
        return self.sigma * (t - self.epsilon) * self.c_in(t)

    def c_in(self, t: Tensor) -> Tensor:
        """Return c_in(t)."""
        return (self.sigma**2 + t.square()).rsqrt()

    def target(self, u: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Return the F for which f(u_t, t) = u: (u - c_skip u_t) / c_out."""
        inverse_c_in = (self.sigma**2 + t.square()).sqrt()
        return (u - self.c_skip(t, noisy)) * inverse_c_in / (self.sigma * (t - self.epsilon))
