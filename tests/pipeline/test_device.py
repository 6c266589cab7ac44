"""Draws on a device: the same code on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import estimators
from pipeline.errors import UsageError
from pipeline.train.device import device

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="NO GPU HERE: draws on a GPU are not tested"
        ),
    ),
]


@pytest.mark.parametrize("where", DEVICES)
def test_draws_of_a_loaded_posterior_are_the_same_on_every_device(
    where: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(50, 64))
    x = {"x": theta.reshape(-1, 8, 8) + 0.1 * rng.normal(size=(50, 8, 8))}
    given = {"network": "image_unet", "width": 8, "depth": 1, "summary": "image", "members": 1}
    torch.manual_seed(0)
    model = estimators.create("npse", theta, x, **given)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    estimators.save(tmp_path / "posterior", model, provenance={})
    seen = {"x": x["x"][:2]}
    expected = model.posterior().sample(seen, 3, sampling_steps=4, seed=1)
    posterior = estimators.load(tmp_path / "posterior", where)
    drawn = posterior.sample(seen, 3, sampling_steps=4, seed=1)
    assert drawn.device.type == where
    assert torch.allclose(drawn.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    assert device("evaluate.device", "cpu") == "cpu"
    with pytest.raises(UsageError, match=r"evaluate.device=cuda: torch .* finds no GPUs here"):
        device("evaluate.device", "cuda")
