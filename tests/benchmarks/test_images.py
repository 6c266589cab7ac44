"""The benchmark of images: its configurations, the paper's methods as coded, and the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.images.cells import CELLS, MEDIUM, Plan
from benchmarks.images.cells import config as configuration_of
from benchmarks.images.linear import compared
from benchmarks.images.linear import settings as linear_settings
from benchmarks.images.paper import FMPEImage, TimeFeatures
from estimators.problem import InferenceProblem
from pipeline.config import build
from pipeline.plan.requirements import problems
from simulators.linear_gaussian_image import from_cosines, linear_gaussian_image

SIDE = 8


@pytest.mark.parametrize("name", CELLS)
def test_every_line_is_a_configuration_without_problems(name: str) -> None:
    for values in (
        configuration_of(name, Plan(), 1, gpu=False),
        linear_settings(name, MEDIUM, 1),
    ):
        assert problems(build(values), stages=False) == []


def test_exact_draws_are_exact_and_others_are_not() -> None:
    simulator = linear_gaussian_image.target(SIDE)
    rng = np.random.default_rng(0)
    theta = simulator.prior.sample(rng, 200)
    x = simulator.simulate(theta, rng)
    draws = np.stack([simulator.exact({"x": one}, 60, rng) for one in x])
    found = compared(simulator, theta, x, draws)
    assert abs(found["mean_error"]) < 0.1 * found["spread"]
    assert found["variance"] == pytest.approx(1, abs=0.02)
    # 8 pixels have no frequencies in the first and the last band
    assert found["spectrum"][1:4] == pytest.approx([1, 1, 1], abs=0.05)
    assert found["coverage_50"] == pytest.approx(0.5, abs=0.02)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.02)
    mean = from_cosines(simulator.posterior(x)[0]).reshape(200, 1, -1)
    wide = compared(simulator, theta, x, mean + 2 * (draws - mean))
    assert wide["variance"] == pytest.approx(4, rel=0.02)
    moved = compared(simulator, theta, x, draws + 0.3)
    assert moved["mean_error"] == pytest.approx(0.3, rel=0.05)
    assert moved["variance"] == pytest.approx(found["variance"])


def flow(**given: int) -> FMPEImage:
    torch.manual_seed(0)
    names = tuple(f"p{i}" for i in range(784))
    bounds = (-1.0,) * 784, (1.0,) * 784
    problem = InferenceProblem(names, *bounds, {"x": (28, 28)}, shape=(28, 28))
    return FMPEImage(problem, network="naive_mlp", **given)


def test_flow_matching_as_coded_goes_a_step_too_far() -> None:
    model = flow()
    context, generator = torch.zeros(3, model.summary.width), torch.Generator()
    model.velocity = lambda u, context, t: torch.ones_like(u)  # type: ignore[method-assign]
    z = torch.randn(3, 784, generator=generator.manual_seed(1))
    u = model.sample_latent(context, generator.manual_seed(1), 11)
    assert torch.allclose(u, z + 1.1, atol=1e-5)


def test_its_loss_is_log_cosh_of_the_error() -> None:
    model = flow(times=4)
    theta, x = torch.rand(5, 784), {"x": torch.rand(5, 28, 28)}
    torch.manual_seed(2)
    z = torch.randn(5, 784)
    torch.manual_seed(2)
    loss = model.loss(theta, x, 0.0)  # an untrained network has no velocity
    expected = torch.log(torch.cosh(theta - z)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_paper_s_features_of_time() -> None:
    found = TimeFeatures(1000.0)(torch.tensor([[0.25]]))[0].double().numpy()
    phase = 250.0 * 10_000.0 ** (-np.arange(32) / 31)
    np.testing.assert_allclose(found, np.concatenate([np.sin(phase), np.cos(phase)]), atol=2e-4)
