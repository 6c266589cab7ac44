"""A density distilled from draws: that of the teacher, which here is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.estimator import Estimator
from estimators.posterior import Posterior
from estimators.problem import InferenceProblem


class Known(Estimator):
    """u ~ N(x, 0.3^2), with draws alone."""

    name = "known"

    def __init__(self) -> None:
        problem = InferenceProblem(("a", "b"), (-math.inf,) * 2, (math.inf,) * 2, {"x": (2,)})
        super().__init__(problem, bounds="probit", summary="identity", summary_arguments=None)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def sample_latent(
        self, context: torch.Tensor, generator: torch.Generator, sampling_steps: object
    ) -> torch.Tensor:
        return context + 0.3 * self.noise(context, generator)


@pytest.mark.parametrize("count", [1, 2000])
def test_it_is_the_teachers_density(count: int) -> None:
    x = {"x": np.random.default_rng(0).normal(size=(count, 2))}
    teacher = Posterior(Known(), {"budget": 5})
    arguments = {"transforms": 1, "hidden": [32]}
    student = estimators.distil(teacher, x, updates=300, arguments=arguments)
    part = {"x": x["x"][:1]}
    draws, ours = student.sample_with_log_prob(part, 2000, seed=0)
    theirs = (
        torch.distributions.Normal(torch.tensor(part["x"])[:, None], 0.3).log_prob(draws).sum(-1)
    )
    assert (ours - theirs).mean().abs() < 0.4  # the divergence from the teacher
    assert draws.mean(1).numpy() == pytest.approx(part["x"], abs=0.08)
    assert student.provenance["teacher"] == {"budget": 5}
    assert student.provenance["distilled_from"] == "known"


def test_it_takes_bounds_and_can_be_saved(tmp_path: Path) -> None:
    teacher, x = testing.trained("cmpe", width=16).posterior(), testing.rows(1)[1]
    student = estimators.distil(teacher, x, sampling_steps=2, updates=16, arguments={"hidden": [8]})
    draws = student.sample(x, 50, seed=0)
    assert draws.shape == (1, 50, 2)
    assert ((draws >= torch.tensor(testing.LOW)) & (draws <= torch.tensor(testing.HIGH))).all()
    estimators.save(tmp_path / "p", student.module, student.provenance)
    assert torch.equal(estimators.load(tmp_path / "p").sample(x, 50, seed=0), draws)


def test_equal_seeds_give_equal_densities_and_leave_torch_alone() -> None:
    teacher, x = testing.trained("cmpe", width=16).posterior(), testing.rows(3)[1]
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        student = estimators.distil(teacher, x, updates=8, arguments={"hidden": [8]}, seed=3)
        found.append((student.sample(x, 5, seed=0), torch.rand(())))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_bad_arguments_are_named() -> None:
    teacher, x = testing.trained("cmpe", width=16).posterior(), testing.rows(1)[1]
    with pytest.raises(ValueError, match="updates"):
        estimators.distil(teacher, x, updates=0)
    with pytest.raises(LookupError, match="nfs"):
        estimators.distil(teacher, x, estimator="nfs")
