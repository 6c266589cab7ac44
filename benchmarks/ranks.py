"""Two ways in which ranks average their gradients: one message for all, or DistributedDataParallel.

    python -m benchmarks.ranks [--rounds 9]

Two processes with one thread each train the same estimators, one way after the other in every round. Prints
milliseconds of an optimiser step, of the wall and of the processor (median, with the smallest).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from estimators.estimator import Estimator
from estimators.problem import InferenceProblem
from estimators.registry import build
from pipeline.train.ranks import Ranks
from pipeline.train.weights import Weights

WORLD, SIDE = 2, 28
STEPS = {"cmpe": 40, "npse, 4 members": 20, "npse, image_unet": 5}  # of a round
IMAGE = {"members": 1, "network": "image_unet", "width": 32, "summary": "image"}


def estimator_of(name: str) -> Estimator:
    """Return an untrained estimator, the same on every rank."""
    torch.manual_seed(0)
    size, x, shape = (SIDE**2, (SIDE, SIDE), (SIDE, SIDE)) if "image" in name else (2, (2,), ())
    names = tuple(f"p{i}" for i in range(size))
    problem = InferenceProblem(names, (-1.0,) * size, (1.0,) * size, {"x": x}, shape=shape)
    settings = IMAGE if "image" in name else {}
    return build(name.partition(",")[0], problem, settings)


class Loss(nn.Module):
    """The loss of an estimator as a forward pass, which DistributedDataParallel needs."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, theta: Tensor, x: dict[str, Tensor]) -> Tensor:
        return self.estimator.loss(theta, x, 0.1)


def ways(name: str, ranks: Ranks) -> dict[str, Callable[[], None]]:
    """Return an optimiser step by each way."""

    def step(way: str) -> Callable[[], None]:
        estimator = estimator_of(name)
        rows = 16 if "image" in name else 32
        theta = torch.rand(rows, estimator.problem.size) * 2 - 1
        x = {k: torch.rand(rows, *shape) for k, shape in estimator.problem.x.items()}
        weights = Weights(estimator.parameters(), 0.999)
        loss: nn.Module = Loss(estimator)
        if way != "one message":
            loss = DistributedDataParallel(loss, gradient_as_bucket_view=way.endswith("views"))

        def call() -> None:
            loss(theta, x).backward()
            gradients = weights.gradients()
            if way == "one message":
                ranks.mean(gradients)
            weights.step(gradients, rate=1e-4, weight_decay=1e-4, clip=1.0, number=99)

        return call

    return {way: step(way) for way in ("one message", "buckets", "buckets with views")}


def work(rank: int, port: int, rounds: int) -> None:
    """Measure as one rank; the first prints."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    for name, steps in STEPS.items():
        wall: dict[str, list[float]] = {}
        spent: dict[str, list[float]] = {}
        calls = ways(name, Ranks(rank, WORLD))
        for round_ in range(rounds + 1):  # the first is thrown away
            for way, call in calls.items():
                dist.barrier()
                begun, used = time.perf_counter(), time.process_time()
                for _ in range(steps):
                    call()
                if round_:
                    wall.setdefault(way, []).append((time.perf_counter() - begun) / steps * 1e3)
                    spent.setdefault(way, []).append((time.process_time() - used) / steps * 1e3)
        if rank == 0:
            for way in calls:
                times = {
                    "wall_ms": round(statistics.median(wall[way]), 3),
                    "smallest_ms": round(min(wall[way]), 3),
                    "processor_ms": round(statistics.median(spent[way]), 3),
                }
                print(json.dumps({"estimator": name, "way": way, **times}), flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes.spawn(work, (port, rounds), nprocs=WORLD)


if __name__ == "__main__":
    main()
