"""The plug-ins of few-step methods keep the laws of estimators and learn from where they say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import estimators
from estimators import testing
from estimators.npse import NPSE
from experiments.few_step.flow import FewStep, along_path
from experiments.few_step.flow_map import FlowMap

pytestmark = pytest.mark.nightly  # no part of the package
PLUG_INS = (
    "experiments.few_step.mean_flow:MeanFlow",
    "experiments.few_step.neighbours:Neighbours",
    "experiments.few_step.shortcut:Shortcut",
    "experiments.few_step.trig_flow:TrigFlow",
    "experiments.few_step.tuning:Tuning",
)


def saved(path: Path, name: str, **arguments: object) -> str:
    estimators.save(path, testing.trained(name, bounds="reflect", **arguments), {})
    return str(path)


def noisy(f: FewStep, rows: int = 64) -> tuple[torch.Tensor, ...]:
    """Return u, u_t, the summary of x and t."""
    theta, x = testing.rows(rows)
    u, context = f.points(
        torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}
    )
    t = f.noise_levels(u)
    return u, u + t * torch.randn_like(u), context, t


@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", PLUG_INS)
def test_law(name: str, law: Callable[..., None]) -> None:
    law(name, width=16)


@pytest.mark.parametrize("name", PLUG_INS)
def test_a_denoiser_is_the_start(name: str, tmp_path: Path) -> None:
    """With a denoiser's weights the answer is D, whatever the second time."""
    start = saved(tmp_path / "npse", "npse", members=1, width=16, input_scale=6.0)
    f = testing.make(name, start=start, width=16)
    assert isinstance(f, FewStep)
    _, at, context, t = noisy(f)
    teacher = estimators.load(start).module
    assert isinstance(teacher, NPSE)
    times = (t, 0.3 * t) if isinstance(f, FlowMap) else (t,)
    wanted = teacher.denoise(at, context, t)
    assert torch.allclose(f.answer(at, context, *times), wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["npse", "fmpe"])
def test_a_teacher_says_where_the_flow_goes(name: str, tmp_path: Path) -> None:
    """Many steps down the flow end where the teacher's own solver ends."""
    path = saved(tmp_path / name, name, width=16)
    f, teacher = testing.make(PLUG_INS[1], teacher=path), estimators.load(path).module
    assert isinstance(f, FewStep)
    z, context = torch.randn(16, 2), noisy(f, 16)[2]
    f.T = 100.0
    u, grid = f.T * z, f.grid(400).flip(0).float().tolist()
    for t, r in pairwise(grid):
        u = f.below(u, u, context, torch.full((16, 1), t), torch.full((16, 1), r))
    with torch.no_grad():
        theirs = teacher.transport(z, context, 2000 if name == "fmpe" else 400)
    assert torch.allclose(u, theirs, atol=0.05)


def test_without_a_teacher_a_step_is_exact() -> None:
    f = testing.make(PLUG_INS[1])
    assert isinstance(f, FewStep)
    u, at, context, t = noisy(f)
    r = 0.5 * t + f.epsilon
    assert torch.allclose(f.below(u, at, context, t, r), u + r / t * (at - u), atol=1e-5)


def test_the_difference_is_the_derivative() -> None:
    f = testing.trained(PLUG_INS[3], width=16)
    assert isinstance(f, FewStep)
    u, at, context, t = noisy(f)
    slope = (at - u) / t

    def answer(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return f.answer(u, context, t)

    _, wanted = torch.func.jvp(answer, (at, t), (t * slope, t))
    assert torch.allclose(along_path(answer, at, t, slope), wanted, atol=2e-3, rtol=1e-2)


def test_a_teacher_with_other_bounds_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "npse", "npse", width=16)
    with pytest.raises(ValueError, match="bounds"):
        testing.make(PLUG_INS[0], teacher=path, bounds="probit")
