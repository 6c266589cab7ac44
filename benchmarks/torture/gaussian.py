"""The simulator of the tortured run: two parameters, an exact reference posterior, some simulations that fail.

So few fail that a report lists all of them: where a shard is gone, no others may take their place.

The variable TORTURE_PAUSE makes each simulation so many seconds slower, so that a kill meets it at work.
"""

from __future__ import annotations

import os
import time

import numpy as np

from simulators import Normal, simulator

PAUSE = float(os.environ.get("TORTURE_PAUSE", "0"))


def exact(x, n, rng):
    """theta ~ N(0, 1), x = theta + N(0, 1/4): theta | x ~ N(0.8 x, 0.2)."""
    return 0.8 * x["x"] + np.sqrt(0.2) * rng.normal(size=(n, 2))


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)}, references={"exact": exact})
def gaussian(a, b, rng):
    """Return a noisy observation of the parameters."""
    if PAUSE:
        time.sleep(PAUSE)
    if a > 2:
        raise RuntimeError(f"a = {a:.2f} is too large")
    if b < -2:
        return {"x": np.array([np.nan, 0.0])}
    return {"x": np.array([a, b]) + 0.5 * rng.normal(size=2)}
