"""Operators: what is measured of theta, a function of tensors with a noise model, in the conventions of deepinv.

    y = A(theta) + noise

A user's operator is a decorated function, given as `module:attribute` or `file.py:attribute`:

    @operator(sigma=0.1)
    def brightness(theta):                    # (rows, D) -> (rows, ...)
        return theta.mean(1, keepdim=True)

Tachella, Terris, Hurault et al.: DeepInverse: A Python package for solving imaging inverse problems with deep
learning (2025), arXiv 2505.20160.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from estimators import plugins
from estimators.inverse.noise_model import Gaussian, NoiseModel

TABLE = {
    "blur": "estimators.inverse.linear:blur",
    "downsample": "estimators.inverse.linear:downsample",
    "identity": "estimators.inverse.linear:identity",
    "inpaint": "estimators.inverse.linear:inpaint",
}


@dataclass(frozen=True)
class Decomposition:
    """A = U diag(s) V^T of a linear operator on D parameters with m measurements.

    Attributes:
        u: shape (m, r). s: shape (r,). v: shape (D, r).
    """

    u: Tensor
    s: Tensor
    v: Tensor


class Operator:
    """y = A(theta) + noise.

    Arguments:
        function: theta (rows, D) -> f (rows, ...), of torch functions where a method needs its gradient.
        noise_model: p(y | f), see `estimators.inverse.noise_model`.
        name: for messages.
        linear: whether f is linear in theta; then there are `adjoint` and `pinv`.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        noise_model: NoiseModel,
        *,
        name: str = "",
        linear: bool = False,
    ) -> None:
        self.function, self.noise_model, self.linear = function, noise_model, linear
        self.name = name or getattr(function, "__name__", "operator")
        self._decompositions: dict[int, Decomposition] = {}
        if linear and not isinstance(noise_model, Gaussian):
            raise ValueError(f"operator {self.name!r} is linear: its noise must be Gaussian")

    def A(self, theta: Tensor) -> Tensor:  # noqa: N802 - the field's name
        """Return f = A(theta), shape (rows, ...)."""
        return self.function(theta)

    def __call__(self, theta: Tensor, seed: int = 0) -> Tensor:
        """Return a measurement y of each row of theta (rows, D)."""
        with torch.no_grad():
            return self.noise_model.sample(self.A(theta), torch.Generator().manual_seed(seed))

    def adjoint(self, y: Tensor, size: int) -> Tensor:
        """Return A^T y, shape (rows, D), of measurements y (rows, ...), for D = size."""
        parts = self.decomposition(size)
        return (y.flatten(1) @ parts.u * parts.s) @ parts.v.T

    def pinv(self, y: Tensor, size: int) -> Tensor:
        """Return the least-squares solution of least norm, shape (rows, D)."""
        parts = self.decomposition(size)
        positive = parts.s > 1e-6 * parts.s.max()
        inverse = torch.where(positive, 1 / parts.s.clamp_min(1e-30), 0.0)
        return (y.flatten(1) @ parts.u * inverse) @ parts.v.T

    def decomposition(self, size: int) -> Decomposition:
        """Return the singular value decomposition on D = size parameters; it is computed once.

        Raises:
            ValueError: the operator is not linear.
        """
        if not self.linear:
            raise ValueError(
                f"operator {self.name!r} is not declared linear; if it is, say so: @operator(..., linear=True)"
            )
        if size not in self._decompositions:
            with torch.no_grad():
                matrix = self.A(torch.eye(size)).flatten(1).T
            u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
            self._decompositions[size] = Decomposition(u.float(), s.float(), vh.T.float())
        return self._decompositions[size]

    def __repr__(self) -> str:
        return f"<operator {self.name}, {self.noise_model}>"


def operator(
    *, sigma: float | None = None, noise_model: NoiseModel | None = None, linear: bool = False
) -> Callable[[Callable[[Tensor], Tensor]], Operator]:
    """Make an operator of a function by decoration.

    Arguments:
        sigma: standard deviation of Gaussian noise; or
        noise_model: any noise model.
        linear: whether the function is linear.

    Raises:
        TypeError: neither or both of sigma and noise_model.
    """
    if (sigma is None) == (noise_model is None):
        raise TypeError("@operator(...) needs either sigma, of Gaussian noise, or noise_model")
    model = noise_model if noise_model is not None else Gaussian(float(sigma or 0))
    return lambda function: Operator(function, model, linear=linear)


def operator_of(name: str, **given: Any) -> Operator:
    """Return the operator of a name.

    Arguments:
        name: one of the table above, `package.module:attribute` or `file.py:attribute`: an operator, or a
            function that returns one.
        given: arguments of such a function.

    Raises:
        LookupError: there is none of this name.
        TypeError: it is no operator, or its function does not take these arguments.
    """
    found = plugins.find("operator", name, TABLE)
    if isinstance(found, Operator):
        if given:
            raise TypeError(f"operator {name!r} is ready-made and takes no {', '.join(given)}")
        return found
    hint = "decorate it by @estimators.inverse.operator(sigma=...), see docs/inverse.md"
    if not callable(found):
        raise TypeError(f"operator {name!r} is {found!r}, no operator: {hint}")
    try:
        made = found(**given)
    except TypeError as error:
        raise TypeError(f"operator {name!r}: {error}; of a function of tensors: {hint}") from error
    if not isinstance(made, Operator):
        raise TypeError(f"operator {name!r} gives {made!r}, no operator: {hint}")
    return made
