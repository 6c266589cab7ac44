"""Every estimator walks through the laws; so does a plug-in from outside the package."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import estimators
from estimators import testing

CASES = {
    "acf": ("acf", {"hidden": [32], "transforms": 2, "permutation": "learnable"}),
    "cmpe": ("cmpe", {"width": 32}),
    "cmpe-dropout-probit": ("cmpe", {"width": 32, "dropout": 0.2, "bounds": "probit"}),
    "cmpe-deepset": ("cmpe", {"width": 32, "summary": "deepset", "bounds": "logit"}),
    "cmpe_distilled": (
        "cmpe_distilled",
        {"width": 16, "depth": 1, "members": 2, "dropout": 0.2, "points": 5, "sampling_steps": 3},
    ),
    "auto": ("auto", {"width": 16, "depth": 1, "members": 1, "points": 5, "sampling_steps": 3}),
    "ensemble": (
        "ensemble",
        {"member": "nsf", "members": 2, "arguments": {"hidden": [16], "transforms": 1}},
    ),
    "fmpe": ("fmpe", {"width": 32, "dropout": 0.2, "times": "power"}),
    "fmpe-midpoint-adaptive": (
        "fmpe",
        {"width": 16, "network": "adaptive_mlp", "solver": "midpoint"},
    ),
    "joint": (
        "joint",
        {"width": 16, "depth": 1, "heads": 2, "frequencies": 3, "sampling_steps": 5},
    ),
    "joint_distilled": (
        "joint_distilled",
        {"width": 8, "depth": 1, "heads": 2, "frequencies": 2, "points": 4, "sampling_steps": 3},
    ),
    "mixed": ("mixed", {"hidden": [32], "transforms": 2}),
    "nsf": ("nsf", {"hidden": [32], "transforms": 2, "bins": 8}),
    "npse": ("npse", {"width": 16, "depth": 1, "members": 2, "sampling_steps": 5}),
    "npse-centre": ("npse", {"width": 16, "depth": 1, "centre": True, "bounds": "probit"}),
    "nsf-autoregressive-logit": ("nsf_autoregressive", {"hidden": [32], "bounds": "logit"}),
}

FAKE = """
    import torch
    from estimators import Estimator


    class Gaussian(Estimator):
        '''u ~ N(W context + b, exp(s)^2).'''

        def __init__(self, problem, *, bounds="probit", summary="identity"):
            super().__init__(problem, bounds=bounds, summary=summary, summary_arguments=None)
            self.mean = torch.nn.Linear(self.summary.width, problem.size)
            self.spread = torch.nn.Parameter(torch.zeros(problem.size))

        def loss(self, theta, x, progress):
            return -self.log_prob_latent(self.transform(theta), self.summary(x)).mean()

        def log_prob_latent(self, u, context):
            normal = torch.distributions.Normal(self.mean(context), self.spread.exp())
            return normal.log_prob(u).sum(-1)

        def sample_latent(self, context, generator, sampling_steps):
            return self.mean(context) + self.spread.exp() * self.noise(context, generator)


    class Crooked(Gaussian):
        def log_prob_latent(self, u, context):
            return super().log_prob_latent(u, context) + 0.1


    class Stateful(Gaussian):
        calls = 0

        def loss(self, theta, x, progress):
            self.calls += 1
            return self.calls * super().loss(theta, x, progress)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "fake_estimators.py").write_text(textwrap.dedent(FAKE))
    metadata = tmp_path / "fake_estimators-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-estimators\nVersion: 1.0")
    (metadata / "entry_points.txt").write_text(
        "[sbiflow.estimators]\ngaussian = fake_estimators:Gaussian\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("fake_estimators", None)


IN_ANOTHER_PROCESS = ("cmpe-deepset", "cmpe_distilled", "ensemble", "nsf")


def walks() -> Iterator[Any]:
    """Every case through every law; most cases meet the one that starts another Python in the slow tests."""
    for law in testing.LAWS:
        starts_python = law is testing.an_artefact_survives_a_fresh_process
        for case in CASES:
            slow = starts_python and case not in IN_ANOTHER_PROCESS
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(case, law, marks=marks, id=f"{law.__name__}-{case}")


@pytest.mark.parametrize(("case", "law"), list(walks()))
def test_law(case: str, law: testing.Callable) -> None:
    name, arguments = CASES[case]
    law(name, **arguments)


@pytest.mark.parametrize("name", ["gaussian", "fake_estimators:Gaussian"])
def test_plugin_keeps_the_laws(plugins: Path, name: str) -> None:
    testing.check(name)


def test_installed_plugin_is_listed(plugins: Path) -> None:
    assert {"cmpe", "gaussian", "nsf"} <= set(estimators.available())


def test_laws_catch_a_density_that_is_not_normalised(plugins: Path) -> None:
    with pytest.raises(AssertionError, match=r"integrates to 1\.1"):
        testing.density_matches_the_draws("fake_estimators:Crooked")


def test_laws_catch_a_loss_with_state(plugins: Path) -> None:
    with pytest.raises(AssertionError, match="state"):
        testing.check("fake_estimators:Stateful")
