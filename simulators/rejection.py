"""The loop of rejection sampling: propose until enough was accepted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulators.distribution import Array

CHUNK = 1 << 17  # proposals at once, at most
PATIENCE = 5_000_000  # proposals before a rate of acceptance is judged
MIN_RATE = 1e-6


def rejection(propose: Callable[[int], Array], n: int, dim: int, subject: str) -> Array:
    """Return `n` accepted draws, shape (n, dim).

    Arguments:
        propose: takes a number of proposals and returns those accepted, shape (at most that, dim).
        n, dim: number and size of the draws.
        subject: what a draw is made for, for the error.

    Raises: ValueError where less than one proposal in a million is accepted.
    """
    accepted, missing, proposed = [np.empty((0, dim))], n, 0
    while missing > 0:
        if proposed >= PATIENCE and n - missing < MIN_RATE * proposed:
            raise ValueError(f"{subject} has (nearly) no probability under the prior")
        count = min(max(2 * missing, proposed, 1024), CHUNK)
        accepted.append(propose(count)[:missing])
        missing -= len(accepted[-1])
        proposed += count
    return np.concatenate(accepted)
