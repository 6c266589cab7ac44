"""What a training step and a draw cost, beside the arithmetic of the network.

limit = floating-point operations / rate,   the rate of a product of large matrices measured in the same run
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.images.cells import Plan, config
from estimators.estimator import Estimator
from estimators.problem import InferenceProblem
from estimators.registry import build
from pipeline.train.weights import Weights

SIDE, REPEATS = 1024, 7
STEPS = 3  # timed


def estimator_of(name: str, plan: Plan) -> Estimator:
    """Return the untrained estimator of a line of the table."""
    size, cell = plan.size**2, config(name, plan, 1, False)["estimator"]
    problem = InferenceProblem(
        tuple(f"p{i}" for i in range(size)),
        (-1.0,) * size,
        (1.0,) * size,
        {"x": (plan.size, plan.size)},
        shape=(plan.size, plan.size),
    )
    return build(cell["name"], problem, cell["arguments"])


def matmul_rate(device: str) -> float:
    """Return the floating-point operations in a second of a product of large matrices, in single precision."""
    a = torch.randn(SIDE, SIDE, device=device)
    seconds = [_seconds(lambda: a @ a, device) for _ in range(REPEATS)]
    return 2 * SIDE**3 / min(seconds)


def cost(name: str, plan: Plan, rate: float, device: str) -> dict[str, Any]:
    """Return seconds of a step, of its arithmetic at this rate, and their ratio."""
    model = estimator_of(name, plan).to(device).train()
    phase = model.phases[0]
    theta = torch.rand(plan.batch, plan.size**2, device=device) * 2 - 1
    x = {"x": torch.rand(plan.batch, plan.size, plan.size, device=device)}
    weights = Weights(phase.parameters, 0.999)
    with FlopCounterMode(display=False) as counter:
        model.loss(theta, x, 0.0).backward()
    flops = counter.get_total_flops()

    def step() -> None:
        model.loss(theta, x, 0.0).backward()
        weights.step(weights.gradients(), rate=1e-4, weight_decay=1e-4, clip=1.0, number=9999)

    step()
    spent = statistics.median(_seconds(step, device) for _ in range(STEPS))
    return {
        "parameters": sum(p.numel() for p in phase.parameters),
        "step_gflop": flops / 1e9,
        "step_s": spent,
        "limit_s": flops / rate,
        "step_over_limit": spent * rate / flops,
    }


def _seconds(call: Callable[[], object], device: str) -> float:
    """Return seconds of this thread on a processor, or of the wall with a GPU that is waited for."""
    if device == "cpu":
        start = time.thread_time()
        call()
        return time.thread_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
