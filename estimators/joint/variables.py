"""All variables of a problem side by side: its parameters, then the elements of its outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.joint.states import ABSENT, CONDITION, TARGET
from estimators.outputs import masked
from estimators.problem import InferenceProblem
from estimators.summary.base import Summary
from estimators.summary.identity import Identity

LARGEST = 1024  # variables: attention takes time and memory that grow with their square


class Variables(Summary):
    """The context of a conditional: a value and a state for each of N = D + M variables, shape (rows, 2 N).

    Of an observation the parameters are targets, and the M standardised elements of the outputs conditions;
    those that are NaN are absent.

    Arguments:
        problem: names, bounds and shapes.

    Raises:
        ValueError: a preprocessing, an output of varying length, or more than 1024 variables.
    """

    def __init__(self, problem: InferenceProblem) -> None:
        super().__init__()
        if problem.preprocessing != "none":
            raise ValueError(
                f"preprocessing {problem.preprocessing!r}: a joint estimator takes the outputs as they are; "
                "valid: none"
            )
        if ragged := [name for name, mask in masked(problem.x).items() if mask]:
            raise ValueError(
                f"output {ragged[0]!r} has a varying length: a joint estimator takes outputs of fixed shapes"
            )
        self.theta_size, self.shapes = problem.size, dict(sorted(problem.x.items()))
        self.x_size = sum(math.prod(shape) for shape in self.shapes.values())
        self.size = self.theta_size + self.x_size
        if self.size > LARGEST:
            raise ValueError(
                f"{self.theta_size} parameters and {self.x_size} elements of outputs are {self.size} "
                f"variables; a joint estimator takes up to {LARGEST}"
            )
        self.width = 2 * self.size
        self.identity = Identity(self.shapes)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.identity.fit(x)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        y = self.identity(x)
        absent = y.isnan()
        free = y.new_zeros(len(y), self.theta_size)
        states = torch.where(absent, float(ABSENT), float(CONDITION))
        return torch.cat([free, y.masked_fill(absent, 0.0), free + TARGET, states], dim=1)

    def unconditional(self, rows: int, like: Tensor) -> Tensor:
        """Return the context without any condition or output."""
        value = like.new_zeros(rows, self.size)
        states = torch.full_like(value, ABSENT)
        states[:, : self.theta_size] = TARGET
        return torch.cat([value, states], dim=1)

    def given(self, context: Tensor, u: Tensor) -> Tensor:
        """Return the context with parameters as conditions where u (rows, D) is no NaN."""
        values, states = self.split(context)
        known = ~u.isnan()
        first = slice(self.theta_size)
        values, states = values.clone(), states.clone()
        values[:, first] = torch.where(known, u, values[:, first])
        states[:, first] = torch.where(known, CONDITION, states[:, first]).to(states.dtype)
        return torch.cat([values, states], dim=1)

    def likelihood(self, u: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return the context of p(x | theta): parameters u (rows, D) are conditions, and outputs targets.

        Arguments:
            u: shape (rows, D).
            observed: the context of observations, (rows, 2 N), whose absent outputs are absent here; None: all
                are targets.
        """
        y = u.new_zeros(len(u), self.x_size)
        states = torch.full_like(y, TARGET)
        if observed is not None:
            absent = self.split(observed)[1][:, self.theta_size :] == ABSENT
            states = states.masked_fill(absent, ABSENT)
        return torch.cat([u, y, torch.full_like(u, CONDITION), states], dim=1)

    def split(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and states (rows, N) of a context."""
        values, states = context.chunk(2, dim=1)
        return values, states

    def natural(self, y: Tensor) -> dict[str, Tensor]:
        """Return standardised outputs (rows, M) in natural units, by name, each (rows, ...)."""
        flat = self.identity.standard.inverse(y)
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = flat.split(sizes, dim=1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def log_abs_det(self, context: Tensor) -> Tensor:
        """Return log |dy / dx| over the outputs that are targets, shape (rows,)."""
        target = self.split(context)[1][:, self.theta_size :] == TARGET
        return torch.where(target, -self.identity.standard.scale.log(), 0.0).sum(1)
