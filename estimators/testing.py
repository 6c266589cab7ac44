"""The laws every estimator keeps, for authors of estimators; each raises AssertionError.

from estimators import testing

@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_my_estimator(law):
    law("my_package.my_module:MyEstimator")

`check_network`, `check_summary` and `check_preprocessing` do the same for the parts of an estimator.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import estimators
from estimators import testing_parts
from estimators.consistency import ConsistencyEstimator
from estimators.estimator import Estimator
from estimators.posterior import Posterior
from estimators.training_range import OutOfRangeWarning

LOW, HIGH = (-1.0, 0.0), (1.0, 3.0)
OUTPUTS = {"counts": (3,), "trace": (4, 2)}

check_network = testing_parts.check_network
check_preprocessing = testing_parts.check_preprocessing
check_summary = testing_parts.check_summary


def rows(n: int = 256, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return n rows of a small bounded problem: theta (n, 2) and its outputs."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(LOW, HIGH, (n, 2))
    x = {
        name: theta.sum(1).reshape(n, *[1] * len(shape)) + rng.normal(size=(n, *shape))
        for name, shape in OUTPUTS.items()
    }
    return theta, x


def make(name: str, **arguments: Any) -> Estimator:
    """Return a new estimator for `rows()`."""
    torch.manual_seed(0)
    theta, x = rows()
    return estimators.create(name, theta, x, low=LOW, high=HIGH, names=["a", "b"], **arguments)


def trained(name: str, **arguments: Any) -> Estimator:
    """Return an estimator after a few optimiser steps, so that no weight is at its start."""
    estimator, done = make(name, **arguments), 0.0
    for number, phase in enumerate(estimator.phases):
        estimator.begin(number)
        optimiser = torch.optim.Adam(phase.parameters, lr=1e-2)
        for step in range(20):
            theta, x = tensors(*rows(64, seed=step))
            optimiser.zero_grad()
            estimator.loss(theta, x, done + phase.share * step / 20).backward()
            optimiser.step()
        done += phase.share
    return estimator


def loss_is_a_finite_number(name: str, **arguments: Any) -> None:
    """The loss is a finite scalar at the start, in the middle and at the end of training."""
    estimator = make(name, **arguments)
    theta, x = tensors(*rows())
    for progress in (0.0, 0.5, 1.0):
        loss = estimator.loss(theta, x, progress)
        assert loss.shape == (), f"loss has shape {tuple(loss.shape)}"
        assert loss.isfinite(), f"loss is {loss.item()} at progress {progress}"


def loss_depends_on_its_arguments_alone(name: str, **arguments: Any) -> None:
    """Equal weights, arguments and random state give an equal loss, whatever came before."""
    estimator = make(name, **arguments)
    theta, x = tensors(*rows())
    values = []
    for earlier in (0.0, 1.0):
        estimator.loss(theta, x, earlier)
        torch.manual_seed(3)
        values.append(estimator.loss(theta, x, 0.5).item())
    assert values[0] == values[1], f"the loss kept a state: {values}"


def gradient_reaches_every_parameter(name: str, **arguments: Any) -> None:
    """Every parameter gets a finite gradient that is not zero everywhere, and only in its phase."""
    estimator, done = trained(name, **arguments), 0.0
    keys = {parameter: key for key, parameter in estimator.named_parameters()}
    theta, x = tensors(*rows())
    left = set(keys)
    for phase in estimator.phases:
        estimator.zero_grad()
        estimator.loss(theta, x, done + 0.99 * phase.share).backward()
        for parameter in phase.parameters:
            key = keys[parameter]
            assert parameter.grad is not None, f"{key} gets no gradient"
            assert parameter.grad.isfinite().all(), f"{key} gets a gradient that is not finite"
            assert parameter.grad.abs().sum() > 0, f"{key} gets a gradient of zero"
        for parameter in keys.keys() - set(phase.parameters):
            assert parameter.grad is None, f"{keys[parameter]} gets a gradient in {phase.name}"
        left -= set(phase.parameters)
        done += phase.share
    assert not left, f"{sorted(keys[parameter] for parameter in left)} are in no phase"
    assert abs(done - 1) < 1e-9, f"the phases' shares add up to {done}"


def examples_are_rows_that_are_learned_from(name: str, **arguments: Any) -> None:
    """Where a phase replays, a batch makes one example a row, and any of them give loss and gradient."""
    estimator = trained(name, **arguments)
    theta, x = tensors(*rows(16))
    for phase in estimator.phases:
        if phase.replay is None:
            continue
        examples = estimator.examples(theta, x)
        sizes = {key: len(values) for key, values in examples.items()}
        assert set(sizes.values()) == {16}, f"rows of the examples of 16 simulations: {sizes}"
        estimator.zero_grad()
        loss = estimator.replay_loss({key: values[3:8] for key, values in examples.items()})
        assert loss.isfinite(), f"loss is {loss.item()}"
        loss.backward()
        assert all(parameter.grad is not None for parameter in phase.parameters), phase.name


def extreme_input_keeps_the_loss_finite(name: str, **arguments: Any) -> None:
    """Outliers in x and parameters on their bounds give a finite loss, gradient and draw."""
    estimator = trained(name, **arguments)
    theta, x = tensors(*rows(4))
    theta[0], theta[1] = torch.tensor(LOW), torch.tensor(HIGH)
    for size in (1e10, -1e30):
        x["counts"][0] = size
        x["trace"][1] = size
        estimator.zero_grad()
        loss = estimator.loss(theta, x, 1.0)
        loss.backward()
        assert loss.isfinite(), f"loss is {loss.item()} for x of {size:g}"
        for key, parameter in estimator.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), f"gradient of {key} for x of {size:g}"
        with warnings.catch_warnings(action="ignore", category=OutOfRangeWarning):
            draws = estimator.posterior().sample(x, 8, seed=0)
        assert draws.isfinite().all(), f"a draw is not finite for x of {size:g}"


def draws_have_their_shape_and_bounds(name: str, **arguments: Any) -> None:
    """Draws are float32 (B, n, D) within the prior's bounds; training mode survives."""
    estimator = trained(name, **arguments).train()
    posterior = estimator.posterior()
    x = rows(5)[1]
    draws = posterior.sample(x, 7, seed=0)
    assert draws.shape == (5, 7, 2), f"draws have shape {tuple(draws.shape)}"
    assert draws.dtype == torch.float32, f"draws are {draws.dtype}"
    inside = (draws.double() >= torch.tensor(LOW)) & (draws.double() <= torch.tensor(HIGH))
    assert inside.all(), "a draw lies outside the prior's bounds"
    assert estimator.training, "sampling left the module in evaluation mode"
    assert posterior.names == ("a", "b"), f"names are {posterior.names}"
    for b, n in ((0, 7), (5, 0)):
        part = {key: value[:b] for key, value in x.items()}
        assert posterior.sample(part, n, seed=0).shape == (b, n, 2), f"{b} observations, {n} draws"


def equal_seeds_give_equal_draws(name: str, **arguments: Any) -> None:
    """A seed decides the draws, whatever torch's global generator does."""
    posterior = trained(name, **arguments).posterior()
    x = rows(3)[1]
    torch.manual_seed(1)
    first = posterior.sample(x, 50, seed=11)
    torch.manual_seed(2)
    assert torch.equal(first, posterior.sample(x, 50, seed=11)), "the same seed, other draws"
    assert not torch.equal(first, posterior.sample(x, 50, seed=12)), "another seed, the same draws"


def posterior_shares_weights(name: str, **arguments: Any) -> None:
    """The posterior follows the module's weights."""
    estimator = trained(name, **arguments)
    posterior, x = estimator.posterior(), rows(3)[1]
    before = posterior.sample(x, 10, seed=0)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(0.1)
    assert not torch.equal(before, posterior.sample(x, 10, seed=0)), "the weights were copied"


def density_matches_the_draws(name: str, **arguments: Any) -> None:
    """Where there is a density it integrates to one and its mean is the draws' mean."""
    posterior, x = trained(name, **arguments).posterior(), rows(1)[1]
    if not has_density(posterior, x):
        return
    # theta = low + (high - low) Phi(v) on a grid of v, which is fine where a density may be steep.
    v, cell = np.linspace(-5.0, 5.0, 121, retstep=True)
    normal = torch.distributions.Normal(0.0, 1.0)
    share = normal.cdf(torch.tensor(v)).numpy()
    axes = [a + (b - a) * share for a, b in zip(LOW, HIGH, strict=True)]
    slopes = [
        (b - a) * np.exp(-0.5 * v**2) * cell / np.sqrt(2 * np.pi)
        for a, b in zip(LOW, HIGH, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(1, -1, 2)
    density = posterior.log_prob(grid, x)[0].double().exp().numpy()
    mass = density * np.multiply.outer(*slopes).ravel()
    assert abs(mass.sum() - 1) < 0.01, f"the density integrates to {mass.sum():.4f}"
    draws = posterior.sample(x, 20_000, seed=0)[0].double().numpy()
    gap = np.abs(draws.mean(0) - mass @ grid[0]) / draws.std(0)
    assert (gap < 0.05).all(), f"means of draws and density differ by {gap} deviations"
    outside = posterior.log_prob(np.array([[[LOW[0] - 1.0, 1.0]]]), x)
    assert outside.item() == -np.inf, "the density outside the bounds is not zero"


def draws_come_with_their_density(name: str, **arguments: Any) -> None:
    """Where draws come with their density they are the same draws, and it is that of autograd.

    For draws u = g(z) the Jacobian is computed by reverse differentiation; the density at given
    parameters, where there is one, agrees.
    """
    estimator = trained(name, **arguments).eval()
    posterior, x = estimator.posterior(), rows(2)[1]
    for steps in (1, 2, None):
        try:
            draws, log_prob = posterior.sample_with_log_prob(x, 30, sampling_steps=steps, seed=0)
        except (NotImplementedError, ValueError):
            continue
        expected = posterior.sample(x, 30, sampling_steps=steps, seed=0)
        assert torch.allclose(draws, expected, atol=1e-4), "sample() gives other draws"
    if steps is None and has_density(posterior, x):
        gap = (posterior.log_prob(draws, x) - log_prob).abs().median()
        assert gap < 0.01, f"log_prob() differs by {gap:.3g}"
    context = estimator.summary(tensors(*rows(4))[1]).detach()
    for passes in (1, 2):
        seed = torch.Generator().manual_seed(1)
        z = estimator.noise(context, seed.clone_state())
        try:
            _, density = estimator.sample_latent_with_log_prob(context, seed, passes)
            derivative = torch.autograd.functional.jacobian(
                lambda v, passes=passes: estimator.transport(v, context, passes).sum(0), z
            ).movedim(1, 0)
        except (NotImplementedError, ValueError):
            continue
        wanted = -0.5 * z.square().sum(1) - np.log(2 * np.pi)
        wanted = wanted - torch.linalg.slogdet(derivative).logabsdet
        gap = (density - wanted).abs().max()
        assert gap < 2e-3, f"the density of draws differs from the Jacobian's by {gap:.3g}"


def consistency_starts_at_the_identity(name: str, **arguments: Any) -> None:
    """A consistency function leaves u alone at the shortest time, and only there."""
    estimator = trained(name, **arguments).eval()
    if not isinstance(estimator, ConsistencyEstimator):
        return
    context = estimator.summary(tensors(*rows(64))[1])
    u = 10 * torch.randn(64, 2)
    for t, same in ((estimator.epsilon, True), (0.5 * estimator.T, False)):
        kept = torch.equal(estimator.consistency_function(u, context, torch.tensor([[t]])), u)
        assert kept == same, f"at t = {t} the consistency function is {'' if kept else 'not '}u"


def an_artefact_survives_a_fresh_process(name: str, **arguments: Any) -> None:
    """A saved posterior, loaded by another process, gives equal draws."""
    estimator = trained(name, **arguments)
    x = rows(3)[1]
    expected = estimator.posterior().sample(x, 20, seed=5).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "posterior")
        estimators.save(path, estimator, {"digest": "d"})
        for key, value in x.items():
            np.save(Path(folder, f"x-{key}.npy"), value)
        program = (
            "import json, sys\n"
            "sys.path[:] = json.loads(sys.argv[2])\n"
            "import numpy, estimators\n"
            "posterior = estimators.load(sys.argv[1] + '/posterior')\n"
            "assert posterior.provenance == {'digest': 'd'}, posterior.provenance\n"
            "x = {k: numpy.load(f'{sys.argv[1]}/x-{k}.npy') for k in posterior.x_shapes}\n"
            "draws = posterior.sample(x, 20, seed=5)\n"
            "numpy.save(sys.argv[1] + '/draws.npy', draws.numpy())\n"
        )
        root = str(Path(estimators.__file__).parents[1])
        subprocess.run(
            [sys.executable, "-c", program, folder, json.dumps([root, *sys.path])],
            check=True,
            cwd=root,
        )
        draws = np.load(Path(folder, "draws.npy"))
    assert np.array_equal(draws, expected), "the loaded posterior gives other draws"


LAWS: tuple[Callable[..., None], ...] = (
    loss_is_a_finite_number,
    loss_depends_on_its_arguments_alone,
    gradient_reaches_every_parameter,
    examples_are_rows_that_are_learned_from,
    extreme_input_keeps_the_loss_finite,
    draws_have_their_shape_and_bounds,
    equal_seeds_give_equal_draws,
    posterior_shares_weights,
    density_matches_the_draws,
    draws_come_with_their_density,
    consistency_starts_at_the_identity,
    an_artefact_survives_a_fresh_process,
)


def has_density(posterior: Posterior, x: dict[str, np.ndarray]) -> bool:
    """Say whether the posterior gives a density at any parameters."""
    try:
        middle = np.mean([LOW, HIGH], axis=0)
        posterior.log_prob(np.tile(middle, (len(next(iter(x.values()))), 1, 1)), x)
    except NotImplementedError:
        return False
    return True


def check(name: str, **arguments: Any) -> None:
    """Walk an estimator through all laws."""
    for law in LAWS:
        law(name, **arguments)


def tensors(theta: np.ndarray, x: dict[str, np.ndarray]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return rows as single-precision tensors."""
    return torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}
