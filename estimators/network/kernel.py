"""Layers of a perceptron's training, compiled by Numba for one thread of a processor.

A layer, forward and backward:

    forward   a = h W^T + b,   h' = r + m silu(a),   s = m silu'(a)
    back    d = s dL/dh',   dL/dW = d^T h,   dL/db = sum of d over the rows,   dL/dh = d W + r

    silu(a) = a q,   silu'(a) = q (1 + a (1 - q)),   q = 1 / (1 + exp(-a))

with dropout's mask m, and r the residual connection: h and dL/dh' in a residual layer, 0 otherwise. The
products are by scipy's BLAS, which takes the widest vectors of the processor.

`pair_inputs` and `pair_loss` are the two ends of `estimators.network.fused.consistency_loss`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from estimators.network.numba_private import compiled

# No flag that lets NaN be ignored: a training that diverges must be noticed.
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}
FLOAT = np.float32
INVERSE_LOG2, LOG2 = FLOAT(1 / math.log(2)), FLOAT(math.log(2))
# From here on 2^n is no normal number any more, and infinite.
MIN_EXPONENT, MAX_EXPONENT = FLOAT(-87.0), FLOAT(89.0)
TAYLOR = tuple(FLOAT(1 / math.factorial(k)) for k in range(7, -1, -1))


def _compiled(function: Callable[..., Any]) -> Any:
    return compiled(function, OPTIONS)


@numba.njit(inline="always", **OPTIONS)
def _sigmoid(a: Any) -> Any:
    """Return q with exp(-a) = 2^n exp(f), |f| <= log(2) / 2, in operations that exist for vectors."""
    y = min(max(-a, MIN_EXPONENT), MAX_EXPONENT)
    n = np.floor(y * INVERSE_LOG2 + FLOAT(0.5))
    f = y - n * LOG2
    p = TAYLOR[0]
    for k in range(1, 8):
        p = p * f + TAYLOR[k]
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return FLOAT(1) / (FLOAT(1) + p * power)


@_compiled
def forward(
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
def backward(
    grad_output: np.ndarray,
    slope: np.ndarray,
    h: np.ndarray,
    weight: np.ndarray,
    residual: bool,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray,
    grad_input: np.ndarray,
) -> None:
    """Fill dL/dW, dL/db and dL/dh.

    Arguments:
        grad_output: dL/dh', shape (n, w).
        slope: s, shape (n, w).
        h: shape (n, v).
        weight: W, shape (w, v).
        residual: whether r = dL/dh'.
        grad_weight, grad_bias: shapes (w, v) and (w,).
        grad_input: shape (n, v), or (0, v) where it is not needed.
    """
    d = np.empty_like(grad_output)
    rows, width = grad_output.shape
    grad_bias[:] = FLOAT(0)
    for i in range(rows):
        for j in range(width):
            d[i, j] = grad_output[i, j] * slope[i, j]
            grad_bias[j] += d[i, j]
    np.dot(d.T, h, grad_weight)
    if len(grad_input):
        np.dot(d, weight, grad_input)
        if residual:
            grad_input += grad_output


@_compiled
def pair_inputs(
    u: np.ndarray,
    z: np.ndarray,
    context: np.ndarray,
    input_scale: float,
    i: np.ndarray,
    table: np.ndarray,
    v: np.ndarray,
) -> None:
    """Fill v = (scaled parameter, scaled context, features of time), shape (2 B, D + C + F)."""
    rows, size = u.shape
    start = size + context.shape[1]
    for side in range(2):
        for r in range(rows):
            column, to = table[side, i[r]], v[side * rows + r]
            for j in range(size):
                to[j] = column[3] * (u[r, j] + column[0] * z[r, j])
            for j in range(size, start):
                to[j] = input_scale * context[r, j - size]
            for j in range(start, len(to)):
                to[j] = column[4 + j - start]


@_compiled
def pair_loss(
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
