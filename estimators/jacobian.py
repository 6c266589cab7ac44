"""Exact Jacobians of maps that treat every row by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

LARGEST = 20  # D up to which a Jacobian is computed: it takes D passes and D^2 numbers for a row


def jacobian(f: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(z), shape (rows, D), and df/dz, shape (rows, D, D), by forward differentiation.

    Arguments:
        f: (rows, D) -> (rows, D); row i of the result depends on row i alone.
        z: where, shape (rows, D).

    Raises:
        NotImplementedError: D > 20.
    """
    size = z.shape[-1]
    if size > LARGEST:
        raise NotImplementedError(
            f"the exact density of a draw needs a Jacobian of {size} parameters; "
            f"up to {LARGEST} are computed"
        )
    if not len(z):
        return f(z), z.new_zeros(0, size, size)

    return directional_derivatives(f, z, torch.eye(size, dtype=z.dtype, device=z.device))


def directional_derivatives(
    f: Callable[[Tensor], Tensor], z: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return f(z), shape (rows, D), and its derivatives along k directions, shape (rows, D, k).

    Arguments:
        directions: shape (k, D), the same for all rows.
    """

    def column(direction: Tensor) -> Any:
        return jvp(f, (z,), (direction.expand_as(z),))

    with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no forward derivative
        # The value is the same for every direction; a derivative is a column.
        return vmap(column, out_dims=(None, -1))(directions)  # type: ignore[arg-type]


def log_normal(z: Tensor) -> Tensor:
    """Return log N(z; 0, I) of vectors (rows, D), shape (rows,)."""
    return -0.5 * (z.square().sum(dim=-1) + z.shape[-1] * math.log(2 * math.pi))
