"""What every method is: a callable (y, operator, n, seed) -> draws, with checks, portions and counted passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators.checks import within
from estimators.inverse.measurements import Counted, Measurements, Tick
from estimators.inverse.operators import Decomposition, Operator
from estimators.inverse.prior import ConsistentPrior, DiffusionPrior, bounded, decode

ROWS = 4096  # rows in one pass
FLOATS = 2**24  # numbers that one pass may take


@dataclass(frozen=True)
class Solution:
    """Draws for B measurements, and what they cost.

    Attributes:
        draws: theta, shape (B, n, D).
        passes: network passes of one draw. gradients: how many of them with their gradient.
        diagnostics: name -> a number for each measurement, shape (B,).
    """

    draws: Tensor
    passes: float
    gradients: float
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Solver:
    """Base of all methods.

    A subclass takes the prior and its settings as keyword-only arguments, and defines `draw`.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`.
    """

    name = ""
    needs_consistency = False  # of the prior
    needs_gradient = True  # of the operator
    needs_linear = False  # an operator that is linear
    interacts = False  # whether the draws for one measurement are made together

    def __init__(self, prior: DiffusionPrior) -> None:
        self.prior = prior

    def draw(self, measured: Measurements, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one draw u for each row of y, shape (rows, D), and diagnostics of the rows.

        Arguments:
            measured: measurements, one for each row; where draws interact, n rows after another are equal.
            n: draws for one measurement.
        """
        raise NotImplementedError

    def __call__(self, y: Tensor, operator: Operator, n: int, seed: int) -> Tensor:
        """Return draws theta, shape (n, D) for one measurement y, (B, n, D) for B of them.

        Equal seeds give equal draws.

        Arguments:
            y: one measurement, of the shape of one A(theta), or (B, ...).
            operator: A with its noise.
            n: draws for one measurement.
            seed: of all randomness.

        Raises:
            ValueError: y of another shape or not finite, an operator for parameters of another size, without
                gradient or not linear where the method needs it, n < 1.
            FloatingPointError: the operator gives what is not finite.
        """
        single = self.is_single(y, operator)
        draws = self.solve(y[None] if single else y, operator, n, seed).draws
        return draws[0] if single else draws

    def solve(
        self, y: Tensor, operator: Operator, n: int, seed: int, tick: Tick = lambda share: None
    ) -> Solution:
        """Return draws for B measurements with their cost; the arguments are those of a call.

        Arguments:
            y: shape (B, ...).
            tick: is told now and then which share of the work is done; it may raise to stop.
        """
        if self.is_single(y, operator):
            raise ValueError(
                f"y has shape {tuple(y.shape)}: solve() takes (B, ...); for one call the solver"
            )
        within("n", n, 1, integer=True)
        self._check_operator(operator)
        prior, generator = Counted(self.prior), torch.Generator().manual_seed(seed)
        made = self.made_together(n)
        total = len(y) * made
        draws = torch.empty(total, self.prior.size, device=y.device)
        found: dict[str, list[Tensor]] = {}
        portions = self._portions(total, made)
        for k, (start, stop) in enumerate(portions):

            def told(share: float, k: int = k) -> None:
                tick((k + share) / len(portions))

            rows = torch.arange(start, stop, device=y.device) // made
            measured = Measurements(prior, operator, y[rows], generator, told)
            u, diagnostics = self.draw(measured, made)
            draws[start:stop] = bounded(self.prior, decode(self.prior, u.detach()))
            for key, values in diagnostics.items():
                found.setdefault(key, []).append(values)
        means = {key: torch.cat(parts).view(len(y), made).mean(1) for key, parts in found.items()}
        draws = draws.view(len(y), made, self.prior.size)
        if made > n:  # neighbours may have one origin
            draws = draws[:, torch.randperm(made, generator=generator)[:n].to(y.device)]
        wanted = len(y) * n
        return Solution(draws, prior.passes / wanted, prior.gradients / wanted, means)

    def made_together(self, n: int) -> int:
        """Return how many draws for one measurement are made so that n can be chosen."""
        return n

    def _portions(self, total: int, n: int) -> list[tuple[int, int]]:
        # Their size depends on shapes alone, so that equal seeds give equal draws.
        size = max(1, min(ROWS, FLOATS // max(1, self.prior.row_memory)))
        if self.interacts:
            size = max(1, size // n) * n
        return [(start, min(start + size, total)) for start in range(0, total, size)]

    def check_prior(self) -> None:
        """Raise ValueError where the prior lacks what the method needs."""
        if self.needs_consistency and not isinstance(self.prior, ConsistentPrior):
            raise ValueError(
                f"method {self.name!r} needs a consistency function, and this prior is a denoiser alone: train "
                "cmpe_distilled, or use dps_ode, which follows the flow instead"
            )

    def is_single(self, y: Tensor, operator: Operator) -> bool:
        """Return whether y is one measurement."""
        expected = operator.noise_model.shape(tuple(self._probe(operator).shape[1:]))
        shape = tuple(y.shape)
        if shape not in (expected, (*shape[:1], *expected)) or 0 in shape:
            valid = f"{expected}, or {('B', *expected)} for B measurements"
            raise ValueError(f"y has shape {shape}; operator {operator.name!r} measures {valid}")
        if y.is_floating_point() and not y.isfinite().all():
            raise ValueError("y holds NaN or infinity")
        return shape == expected

    def _probe(self, operator: Operator) -> Tensor:
        """Return A of the prior's centre, shape (1, ...); its gradient can be asked for."""
        u = torch.zeros(1, self.prior.size, device=self.prior.shift.device, requires_grad=True)
        try:
            f = operator.A(decode(self.prior, u))
        except Exception as error:  # of the user's function
            raise ValueError(
                f"operator {operator.name!r} cannot take {self.prior.size} parameters, which this prior has: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(f, Tensor) or f.ndim < 1 or len(f) != 1:
            got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
            raise ValueError(
                f"operator {operator.name!r} gives {got} for one row; valid is a tensor (rows, ...)"
            )
        return f

    def _check_operator(self, operator: Operator) -> None:
        if self.needs_linear and not operator.linear:
            raise ValueError(
                f"method {self.name!r} is for linear operators, and {operator.name!r} is not declared as one"
            )
        if self.needs_gradient and not self._probe(operator).requires_grad:
            raise ValueError(
                f"operator {operator.name!r} has no gradient, which method {self.name!r} needs: write it with "
                "torch functions, without detach() or argmax; cm_smc with gradient=false works without"
            )

    def linear_parts(self, operator: Operator) -> tuple[Decomposition, Tensor]:
        """Return the decomposition of u -> A(scale u), and A(shift), shape (m,)."""
        scale, shift = self.prior.scale, self.prior.shift.expand(self.prior.size)
        offset = operator.A(shift[None]).flatten()
        if scale.ndim and not torch.equal(scale, scale[:1].expand_as(scale)):
            wide = Operator(lambda u: operator.A(scale * u), operator.noise_model, linear=True)
            return wide.decomposition(self.prior.size), offset
        parts = operator.decomposition(self.prior.size)
        return Decomposition(parts.u, parts.s * scale.reshape(-1)[0].to(parts.s), parts.v), offset
