"""Why a consistency sample: what a neural operator sees at the posterior mean and at a sample, by noise level.

A test image is disturbed by noise sigma. Of the posterior mean D(u), the consistency sample g(u) and the end of
the flow, solved by 20 passes, it is measured: the accuracy of the classifier and of the held-out one, and the
share that a detector takes for real. The detector estimates noise and blur, and takes for real what is below
the 95 % quantile of real test images in both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inverse.networks import labelled, operator_of, test_images
from estimators.inverse import EstimatorPrior
from estimators.inverse.flow import flow_end
from evaluation.features import feature_network

SIGMAS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # standardised
FLOW_PASSES = 20
ROWS = 200  # in one pass
Estimates = dict[str, Callable[[Tensor, float], Tensor]]


def measure(prior: EstimatorPrior, sigma: float, count: int, folder: Path) -> dict[str, Any]:
    """Return a mapping estimate -> measure -> one number for each of `count` test images."""
    images, classes = (part[:count] for part in test_images())
    generator = torch.Generator().manual_seed(round(1000 * sigma))
    u = (images - prior.shift) / prior.scale
    noisy = u + sigma * torch.randn(u.shape, generator=generator)
    estimates: Estimates = {
        "mean": prior.denoise,
        "consistency": prior.consistency,
        "flow": lambda v, s: flow_end(prior.denoise, v, s, prior.sigma_min, FLOW_PASSES),
    }
    judges = {
        "used": operator_of("classifier", held_out=False, folder=folder),
        "held_out": operator_of("classifier", held_out=True, folder=folder),
    }
    detector, limit = _detector(folder)
    found: dict[str, Any] = {}
    with torch.no_grad():
        for name, estimate in estimates.items():
            parts = [estimate(part, sigma) for part in noisy.split(ROWS)]
            theta = prior.shift + prior.scale * torch.cat(parts)
            right = {key: (f.A(theta).argmax(1) == classes) for key, f in judges.items()}
            real = (detector(theta.numpy()) <= limit).all(1)
            found[name] = {key: value.float().tolist() for key, value in right.items()}
            found[name]["real"] = real.astype(float).tolist()
    return found


def _detector(folder: Path) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Return the estimate of noise and blur (n, 2), and what 95 % of other real images stay below."""
    network = feature_network(labelled()[0][:5000].numpy(), folder)

    def damage(images: np.ndarray) -> np.ndarray:
        return network.features(images)[:, -2:]

    return damage, np.quantile(damage(test_images()[0][-2000:].numpy()), 0.95, axis=0)
