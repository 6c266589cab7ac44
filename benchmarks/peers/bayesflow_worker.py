"""Train BayesFlow's consistency model, in its own environment; KERAS_BACKEND chooses the backend.

    python -m benchmarks.peers.bayesflow_worker FOLDER

Arguments of a job: `model` for ConsistencyModel, `epochs` and `batch_size` for `fit_offline`,
`workflow` for BasicWorkflow; none are BayesFlow's defaults.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bayesflow
import keras
import numpy as np

from benchmarks.peers.exchange import PeerTask, Stopwatch

EPOCHS, BATCH = 100, 32  # BayesFlow's defaults
WARM = 500  # steps


class Marks(keras.callbacks.Callback):
    """Notes the time after the warm-up, in which the training step is compiled."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch, self.done = watch, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.done == WARM:
            self.watch.note(self.done)


def main() -> None:
    """Train, draw and report."""
    job = PeerTask.read(Path(sys.argv[1]))
    keras.utils.set_random_seed(job.seed)
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    epochs = job.arguments.get("epochs", EPOCHS)
    batch = job.arguments.get("batch_size", BATCH)
    steps = epochs * -(-len(job.theta) // batch)
    workflow = bayesflow.BasicWorkflow(
        inference_network=bayesflow.networks.ConsistencyModel(
            total_steps=steps, **job.arguments.get("model", {})
        ),
        inference_variables=["theta"],
        inference_conditions=["x"],
        **job.arguments.get("workflow", {}),
    )
    watch = Stopwatch()
    marks = Marks(watch)
    rows = {"theta": job.theta, "x": job.x}
    workflow.fit_offline(rows, epochs=epochs, batch_size=batch, callbacks=[marks], verbose=0)
    watch.note(marks.done)

    def sample(x: np.ndarray, n: int, passes: int | None) -> np.ndarray:
        chosen = {} if passes is None else {"steps": passes}
        drawn = workflow.sample(num_samples=n, conditions={"x": x}, **chosen)["theta"]
        return np.asarray(drawn, dtype=float)

    backend = os.environ["KERAS_BACKEND"]
    job.finish(sample, ("bayesflow", "keras", backend), watch.report())


if __name__ == "__main__":
    main()
