"""Train NPE or FMPE of sbi, in its own environment: `python -m benchmarks.peers.sbi_worker FOLDER`.

Arguments of a job: `build` for the network's builder, `train` for `train()`; none are sbi's defaults.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sbi.inference import FMPE, NPE
from sbi.neural_nets import posterior_flow_nn
from sbi.utils import BoxUniform

from benchmarks.peers.exchange import PeerTask, Stopwatch


def trainer(job: PeerTask, prior: BoxUniform) -> Any:
    """Return sbi's object for a method."""
    quiet = {"show_progress_bars": False}
    if job.method == "nsf":
        return NPE(prior, density_estimator="nsf", **quiet)
    build = job.arguments.get("build")
    network = posterior_flow_nn("mlp", **build) if build else "mlp"
    return FMPE(prior, vf_estimator=network, **quiet)


def main() -> None:
    """Train, draw and report."""
    torch.set_num_threads(1)
    job = PeerTask.read(Path(sys.argv[1]))
    torch.manual_seed(job.seed)
    prior = BoxUniform(torch.tensor(job.low).float(), torch.tensor(job.high).float())
    inference = trainer(job, prior)
    inference.append_simulations(torch.tensor(job.theta).float(), torch.tensor(job.x).float())
    settings = dict(job.arguments.get("train", {}))
    watch = Stopwatch()
    inference.train(**settings)
    epochs = int(inference.summary["epochs_trained"][-1])
    kept = len(job.theta) - int(settings.get("validation_fraction", 0.1) * len(job.theta))
    watch.note(epochs * (kept // settings.get("training_batch_size", 200)))
    posterior = inference.build_posterior()

    def sample(x: np.ndarray, n: int, passes: int | None) -> np.ndarray:
        given = torch.tensor(x).float()
        if len(x) == 1:
            return posterior.sample((n,), x=given, show_progress_bars=False)[None].numpy()
        drawn = posterior.sample_batched((n,), x=given, show_progress_bars=False)
        return drawn.transpose(0, 1).numpy()

    job.finish(sample, ("sbi", "torch"), watch.report() | {"epochs": epochs})


if __name__ == "__main__":
    main()
