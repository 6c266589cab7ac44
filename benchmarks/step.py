"""One optimiser step of CMPE beside the bare cost of its network, on one thread.

step   loss + backward + `pipeline.train.weights.Weights.step` (AdamW, moving average): what training runs
plain  the same step without the compiled layers of `estimators.network.fused`: what that optimisation saves
bare   forward without gradient + forward + backward of the same network on a fixed input
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import estimators
from estimators.cmpe import CMPE
from estimators.network import fused
from pipeline.train.weights import Weights

BLOCK = 25  # calls of one plain loop; the two loops take turns


def measure(
    batch: int = 64, rounds: int = 2000, width: int = 256, depth: int = 2
) -> dict[str, float]:
    """Return medians in milliseconds, from plain loops that take turns, and the median of ratios.

    The clock is the thread's own and a ratio is that of two neighbouring loops, so that a busy
    machine blurs it little.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (4096, 2))
    data = {"x": theta + 0.1 * rng.normal(size=theta.shape)}
    model = estimators.create(
        "cmpe", theta, data, low=[-1, -1], high=[1, 1], width=width, depth=depth
    )
    rows = torch.tensor(theta[:batch]).float()
    x = {"x": torch.tensor(data["x"][:batch]).float()}
    model.train()
    weights = Weights(model.parameters(), decay=0.999)

    def step() -> None:
        model.loss(rows, x, 0.99).backward()
        weights.step(weights.gradients(), rate=1e-4, weight_decay=1e-4, clip=None, number=10_000)

    def plain() -> None:
        with patch.object(fused, "applies", lambda network, values: False):
            step()

    assert isinstance(model, CMPE)
    network = model.network
    inputs = torch.randn(batch, 2), torch.randn(batch, 2), torch.randn(batch, network.time)
    bare_parameters = list(network.parameters())

    def bare() -> None:
        with torch.no_grad():
            target = network(*inputs)
        loss = (network(*inputs) - target).square().mean()
        for parameter in bare_parameters:
            parameter.grad = None
        loss.backward()

    blocks: dict[str, list[float]] = {"step": [], "plain": [], "bare": []}
    import scipy.linalg.cython_blas  # noqa: F401  (the library of the compiled layers' products)

    with threadpool_limits(1, user_api="blas"):  # as in a training
        for _ in range(rounds // BLOCK):
            for name, call in (("step", step), ("plain", plain), ("bare", bare)):
                blocks[name].append(_time(call))
    medians = {f"{name}_ms": round(1e3 * statistics.median(blocks[name]), 4) for name in blocks}
    ratios = [a / b for a, b in zip(blocks["step"], blocks["bare"], strict=True)]
    return {
        "batch": batch,
        "width": width,
        "depth": depth,
        "rounds": rounds,
        **medians,
        "ratio": round(statistics.median(ratios), 3),
    }


def _time(call: Callable[[], None]) -> float:
    for _ in range(5):
        call()
    start = time.thread_time()
    for _ in range(BLOCK):
        call()
    return (time.thread_time() - start) / BLOCK


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2000)
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
