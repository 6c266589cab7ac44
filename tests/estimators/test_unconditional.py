"""Estimators without outputs: they learn the prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import estimators

THETA = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", estimators.available())
def test_every_estimator_learns_and_draws_without_outputs(name: str, tmp_path: Path) -> None:
    model = estimators.create(name, THETA, {})
    for number, phase in enumerate(model.phases):
        if number:
            model.begin(number)
        model.loss(THETA[:16], {}, 0.99 * number).backward()
        assert all(p.grad is not None for p in phase.parameters)
    posterior = model.posterior()
    draws = posterior.sample({}, 5, seed=0)
    assert draws.shape == (1, 5, 3)
    assert torch.equal(torch.cat(list(posterior.batches({}, 5, seed=0))), draws[0])
    if model.has_log_prob and name != "ensemble":  # its members have no density
        assert posterior.log_prob(THETA[None, :4], {}).isfinite().all()
    estimators.save(tmp_path / "prior", model, {})
    assert torch.equal(estimators.load(tmp_path / "prior").sample({}, 5, seed=0), draws)
    with pytest.raises(ValueError, match=r"x has the arrays \['x'\]; valid are \[\]"):
        posterior.sample({"x": THETA}, 5)


@pytest.mark.parametrize("network", ["image_unet", "patch_transformer", "unet"])
def test_every_network_for_images_works_without_an_observation(network: str) -> None:
    shape = {"network": network, "width": 8, "parameter_shape": (8, 8)}
    model = estimators.create("npse", IMAGES, {}, members=1, **shape)
    model.loss(IMAGES[:4], {}, 0.0).backward()
    unused = [key for key, p in model.named_parameters() if p.grad is None]
    assert not unused
    assert model.posterior().sample({}, 2, sampling_steps=2, seed=0).isfinite().all()
