"""Train an estimator of sbiflow: `python -m benchmarks.peers.sbiflow_worker FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import simulators
from benchmarks.fit import TrainingSettings, fit
from benchmarks.peers.exchange import PeerTask, Stopwatch
from pipeline.train.loop import Loop

STRIDE = 250  # steps between two checks


class Watching:
    """Starts the watch at the first step, and notes the time now and then."""

    def __init__(self) -> None:
        self.watch = Stopwatch()
        self.phases: list[int] = []  # of each mark behind the first

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        self.watch.note(loop.step)
        self.phases.append(loop.phase)
        return False, False, STRIDE

    def save(self, loop: Loop) -> None:
        raise AssertionError("nothing asked for a state")

    def rates(self) -> dict[str, dict[str, float]]:
        """Return steps per second in each phase, its first stretch left out."""
        result = {}
        for phase in sorted(set(self.phases)):
            marks = [k + 1 for k, at in enumerate(self.phases) if at == phase]
            if len(marks) > 2:
                result[str(phase)] = self.watch.rate(marks[1], marks[-1])
        return result


def main() -> None:
    """Train, draw and report."""
    torch.set_num_threads(1)
    job = PeerTask.read(Path(sys.argv[1]))
    settings = TrainingSettings(job.method, **job.arguments)
    supervisor = Watching()
    prior = simulators.load(job.task).prior
    posterior, _ = fit(settings, prior, job.theta, {"x": job.x}, job.seed, supervisor)

    def sample(x: np.ndarray, n: int, passes: int | None) -> np.ndarray:
        return posterior.sample({"x": x}, n, sampling_steps=passes, seed=0).double().numpy()

    told = supervisor.watch.report() | {"phases_steps_per_s": supervisor.rates()}
    job.finish(sample, ("torch",), told)


if __name__ == "__main__":
    main()
