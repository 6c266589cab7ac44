"""Random numbers of a rank's rows: those that one rank would draw for all rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import estimators
from estimators.estimator import Estimator
from estimators.registry import TABLE
from pipeline.train.noise import RowNoise
from tests.pipeline.test_train import SMALL

ROWS, WORLD = 12, 3
PART = ROWS // WORLD
# Each for a number of rows; the axis of the rows.
DRAWS: dict[str, tuple[Callable[[int], Tensor], int]] = {
    "rand": (lambda n: torch.rand(n, 3), 0),
    "rand by a tuple": (lambda n: torch.rand((n, 3), device="cpu"), 0),
    "randn": (lambda n: torch.randn(n, 1), 0),
    "randn by a keyword": (lambda n: torch.randn(size=(n, 2), dtype=torch.float64), 0),
    "randn_like": (lambda n: torch.randn_like(torch.zeros(n, 2)), 0),
    "rand_like": (lambda n: torch.rand_like(torch.zeros(n, 2), dtype=torch.float64), 0),
    "randint": (lambda n: torch.randint(10, (n,)), 0),
    "randint by a keyword": (lambda n: torch.randint(2, 10, size=(n,), device="cpu"), 0),
    "elements of rows": (lambda n: torch.randn(5 * n, 2), 0),
    "dropout": (lambda n: nn.Dropout(0.3)(torch.ones(n, 40, requires_grad=True)), 0),
    "dropout without gradient": (lambda n: F.dropout(torch.ones(n, 40), 0.3), 0),
    "masks of layers": (lambda n: torch.rand(3, n, 5), 1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_together_ranks_have_the_numbers_of_one(name):
    draw, axis = DRAWS[name]
    torch.manual_seed(1)
    whole = draw(ROWS)
    parts = []
    for rank in range(WORLD):
        torch.manual_seed(1)
        with RowNoise(rank, WORLD, PART):
            parts.append(draw(PART))
    assert torch.equal(torch.cat(parts, axis), whole)


def test_what_is_not_for_rows_of_a_batch_stays():
    generator = torch.Generator()
    with RowNoise(1, 2, 4):
        drawn = torch.randn(4, 2, generator=generator.manual_seed(1))
        kept = F.dropout(torch.ones(4, 2), 0.5, training=False)
        number = torch.rand(())
    assert torch.equal(drawn, torch.randn(4, 2, generator=generator.manual_seed(1)))
    assert torch.equal(kept, torch.ones(4, 2))
    assert number.shape == ()


def estimator_of(name: str) -> Estimator:
    """A small estimator, with dropout where it has any."""
    torch.manual_seed(0)
    theta = torch.rand(200, 2) * 2 - 1
    given = {
        "ensemble": {"member": "cmpe_distilled", "members": 2, "arguments": SMALL},
        "acf": {"transforms": 2},
        "joint": SMALL,
        "joint_distilled": {**SMALL, "points": 4},
        "mixed": {"transforms": 2},
        "nsf": {"transforms": 2},
        "nsf_autoregressive": {"transforms": 2},
    }.get(name, {**SMALL, "dropout": 0.2})
    model = estimators.create(
        name, theta, {"x": theta + 0.1 * torch.randn(200, 2)}, low=[-1, -1], high=[1, 1], **given
    )
    for parameter in model.parameters():  # networks that start at zero have few gradients
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.train()


def gradients(model: Estimator, theta: Tensor, x: Tensor, progress: float) -> list[Tensor]:
    """The loss and its gradients, one after the other."""
    torch.manual_seed(2)
    loss = model.loss(theta, {"x": x}, progress)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [loss.detach(), *(g for g in found if g is not None)]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_mean_over_ranks_is_the_gradient_of_one(name):
    model = estimator_of(name)
    theta = torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(3)) * 2 - 1
    x = theta.flip(1)
    for progress in (0.0, 0.99):  # both phases of a distillation
        expected = gradients(model, theta, x, progress)
        for module in model.modules():
            if isinstance(module, Estimator):  # stands for the message between ranks
                module.whole_batch = lambda _, summary=module.summary: summary({"x": x})
        parts = []
        for rank in range(WORLD):
            rows = slice(rank * PART, (rank + 1) * PART)
            with RowNoise(rank, WORLD, PART):
                parts.append(gradients(model, theta[rows], x[rows], progress))
        assert len(expected) > 2
        for one, *others in zip(expected, *parts, strict=True):
            torch.testing.assert_close(sum(others) / WORLD, one, rtol=1e-4, atol=1e-5)
            for other in others:  # each rank has another part of the numbers
                assert one.abs().max() < 1e-4 or not torch.allclose(other, one, rtol=1e-3)
