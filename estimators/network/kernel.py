"""A perceptron's training, compiled by Numba for one thread of a processor.

A layer, forwards and backwards:

    ahead   a = h W^T + b,   h' = r + m silu(a),   s = m silu'(a)
    back    d = s dL/dh',   dL/dW = d^T h,   dL/db = sum of d over the rows,   dL/dh = d W + r

    silu(a) = a q,   silu'(a) = q (1 + a (1 - q)),   q = 1 / (1 + exp(-a))

with dropout's mask m, and r what passes by the layer: h and dL/dh' where it is residual, nothing
otherwise. The products are scipy's BLAS, which takes the widest vectors of the processor.

`inputs` and `compare` are those of `estimators.network.base.Pair`. For 256 units and a batch of 64 a
third of a step in torch passes between the products, in some eighty small operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache

# No flag that lets NaN be ignored: a training that diverges must be noticed.
OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}
FLOAT = np.float32
PER_LOG2, LOG2 = FLOAT(1 / math.log(2)), FLOAT(math.log(2))
LEAST, MOST = FLOAT(-87.0), FLOAT(89.0)  # where 2^n is still a normal number, and already infinite
TAYLOR = tuple(FLOAT(1 / math.factorial(k)) for k in range(7, -1, -1))


class _Cache(FunctionCache):
    def save_overload(self, *arguments: Any) -> None:
        with suppress(OSError):  # a full disk: the next process compiles again
            super().save_overload(*arguments)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, and keep the result where there is a place for it."""
    dispatcher = numba.njit(**OPTIONS)(function)
    with suppress(RuntimeError):  # no such place: every process compiles for itself
        dispatcher._cache = _Cache(function)
    return dispatcher


@numba.njit(inline="always", **OPTIONS)
def _sigmoid(a: Any) -> Any:
    """Return q with exp(-a) = 2^n exp(f), |f| <= log(2) / 2, in operations that exist for vectors."""
    y = min(max(-a, LEAST), MOST)
    n = np.floor(y * PER_LOG2 + FLOAT(0.5))
    f = y - n * LOG2
    p = TAYLOR[0]
    for k in range(1, 8):
        p = p * f + TAYLOR[k]
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return FLOAT(1) / (FLOAT(1) + p * power)


@_compiled
def ahead(
    h: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mask: np.ndarray,
    residual: bool,
    output: np.ndarray,
    slope: np.ndarray,
) -> None:
    """Fill h' and s.

    Arguments:
        h: shape (n, v).
        weight: W, shape (w, v).
        bias: b, shape (w,).
        mask: m for each k rows of h, shape (k, w); k = 0 is none.
        residual: whether r = h.
        output: h', shape (n, w).
        slope: s of the last rows, shape (l, w), l <= n.
    """
    np.dot(h, weight.T, output)
    rows, width = output.shape
    unkept = rows - len(slope)
    for i in range(rows):
        if i >= unkept:
            for j in range(width):
                a = output[i, j] + bias[j]
                q = _sigmoid(a)
                output[i, j] = a * q
                slope[i - unkept, j] = q * (FLOAT(1) + a * (FLOAT(1) - q))
        else:
            for j in range(width):
                a = output[i, j] + bias[j]
                output[i, j] = a * _sigmoid(a)
        if len(mask):
            m = mask[i % len(mask)]
            for j in range(width):
                output[i, j] *= m[j]
            if i >= unkept:
                for j in range(width):
                    slope[i - unkept, j] *= m[j]
        if residual:
            for j in range(width):
                output[i, j] += h[i, j]


@_compiled
def back(
    pull: np.ndarray,
    slope: np.ndarray,
    h: np.ndarray,
    weight: np.ndarray,
    residual: bool,
    to_weight: np.ndarray,
    to_bias: np.ndarray,
    to_h: np.ndarray,
) -> None:
    """Fill dL/dW, dL/db and dL/dh.

    Arguments:
        pull: dL/dh', shape (n, w).
        slope: s, shape (n, w).
        h: shape (n, v).
        weight: W, shape (w, v).
        residual: whether r = dL/dh'.
        to_weight, to_bias, to_h: shapes (w, v), (w,) and (n, v); to_h of shape (0, v) is not asked for.
    """
    d = np.empty_like(pull)
    rows, width = pull.shape
    to_bias[:] = FLOAT(0)
    for i in range(rows):
        for j in range(width):
            d[i, j] = pull[i, j] * slope[i, j]
            to_bias[j] += d[i, j]
    np.dot(d.T, h, to_weight)
    if len(to_h):
        np.dot(d, weight, to_h)
        if residual:
            to_h += pull


@_compiled
def inputs(
    u: np.ndarray,
    z: np.ndarray,
    context: np.ndarray,
    i: np.ndarray,
    table: np.ndarray,
    v: np.ndarray,
) -> None:
    """Fill v = (scaled parameter, context, features of time), shape (2 B, D + C + F), from a pair."""
    rows, size = u.shape
    start = size + context.shape[1]
    for side in range(2):
        for r in range(rows):
            column, to = table[side, i[r]], v[side * rows + r]
            for j in range(size):
                to[j] = column[3] * (u[r, j] + column[0] * z[r, j])
            for j in range(size, start):
                to[j] = context[r, j - size]
            for j in range(start, len(to)):
                to[j] = column[4 + j - start]


@_compiled
def compare(
    u: np.ndarray,
    z: np.ndarray,
    i: np.ndarray,
    table: np.ndarray,
    weights: np.ndarray,
    c: float,
    outputs: np.ndarray,
    slope: np.ndarray,
) -> float:
    """Return a pair's loss and fill its derivative by the second outputs, shape (B, D).

    Arguments:
        outputs: F at both sides, shape (2 B, D).
    """
    rows, size = u.shape
    total = 0.0
    for r in range(rows):
        left, right, square = table[0, i[r]], table[1, i[r]], 0.0
        for j in range(size):
            first = left[1] * (u[r, j] + left[0] * z[r, j]) + left[2] * outputs[r, j]
            second = right[1] * (u[r, j] + right[0] * z[r, j]) + right[2] * outputs[rows + r, j]
            slope[r, j] = second - first
            square += np.float64(slope[r, j]) ** 2
        distance, share = math.sqrt(square + c * c), weights[i[r]] / rows
        total += share * (distance - c)
        for j in range(size):
            slope[r, j] *= right[2] * share / distance
    return total
