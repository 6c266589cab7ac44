"""The contenders of the paper, its studies, and the page that is made of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

import simulators
from benchmarks.paper import figures, page, records, report
from benchmarks.paper import steps as sampling
from estimators import testing
from pipeline.plan.requirements import require
from pipeline.study import schema
from pipeline.study.case import cases
from pipeline.study.forecast import forecast

CONTENDERS = (
    "benchmarks.paper.fmpe_paper:FMPEPaper",
    "benchmarks.paper.flow_paper:ACFPaper",
    "benchmarks.paper.flow_paper:NSFPaper",
)


def tensors(n: int = 64) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    theta, x = testing.rows(n)
    return torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}


def test_log_cosh_is_its_formula() -> None:
    gap = torch.tensor([[-30.0, -1.0, 0.0, 0.3]])
    coded = testing.make(CONTENDERS[0])
    assert torch.allclose(coded.distance(gap)[:, 1:], torch.cosh(gap[:, 1:]).log(), atol=1e-6)
    assert float(coded.distance(gap)[0, 0]) == pytest.approx(30 - math.log(2))


def test_the_extra_step_ends_beyond_one() -> None:
    """With the velocity v = u the exact draws are e z, those of K steps (1 + 1/K)^K z."""
    for protocol, steps in (("as_coded", 5), ("corrected", 4)):
        model = testing.make(CONTENDERS[0], protocol=protocol, bounds="ignore", dropout=0.0)
        model.velocity = lambda u, context, t, masks: u  # type: ignore[method-assign]
        noise = model.noise(torch.zeros(3, 2), torch.Generator().manual_seed(1))
        draws = model.sample_latent(torch.zeros(3, 2), torch.Generator().manual_seed(1), 4)
        assert torch.allclose(draws, noise * 1.25**steps)


def test_times_of_a_row_share_its_noise() -> None:
    theta, x = tensors(3)
    model = testing.make(CONTENDERS[0], dropout=0.0, l2=0.0, bounds="ignore")
    seen = []

    def velocity(u: Any, context: Any, t: Any, masks: Any) -> Any:
        seen.append((u, t))
        return torch.zeros_like(u)

    model.velocity = velocity  # type: ignore[method-assign]
    model.loss(theta, x, 0.0)
    u, t = seen[0]
    assert u.shape == (96, theta.shape[1])
    rows = theta.repeat_interleave(32, 0)
    noise = ((u - t * rows) / (1 - t)).reshape(3, 32, -1)
    assert torch.allclose(noise, noise[:, :1].expand_as(noise), atol=1e-3)


@pytest.mark.parametrize("name", CONTENDERS[1:])
def test_flows_take_raw_rows_and_their_kernels_cost(name: str) -> None:
    theta, x = tensors()
    model = testing.make(name, transforms=1, hidden=[8], dropout=0.0, l2=0.0)
    model.standardise(5 + theta, x)
    assert torch.equal(model.transform(theta), theta)
    dear = testing.make(name, transforms=1, hidden=[8], dropout=0.0, l2=0.5)
    dear.load_state_dict(model.state_dict())
    squares = sum(float(w.detach().square().sum()) for w in dear._kernels())
    assert len(dear._kernels()) == 2
    difference = float(dear.loss(theta, x, 0.0) - model.loss(theta, x, 0.0))
    assert difference == pytest.approx(0.5 * squares, rel=1e-4)


@pytest.mark.parametrize("path", sorted(Path("studies/paper").rglob("*.yaml")), ids=str)
def test_the_studies_of_the_paper_are_studies(path: Path, tmp_path: Path) -> None:
    if path.stem == "published":
        return
    found = cases(schema.read(path), tmp_path)
    assert {case.config.simulator.name for case in found} == {path.stem}
    for config in {case.labels["case"]: case.config for case in found}.values():
        require(config, stages=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"), [("fashion_denoising", "CMPE_naive"), ("tumor_spheroid", "CMPE")]
)
def test_the_cost_of_the_large_experiments_is_forecast(
    name: str, method: str, tmp_path: Path
) -> None:
    study = schema.read(report.STUDIES / f"{name}.yaml")
    changes = {"cases": {method: study.cases[method]}, "axes": {"seed": [0]}}
    study = study.model_copy(update=changes)
    (case,) = cases(study, tmp_path)
    found = forecast(study, tmp_path)
    assert found["trainings"] == 1
    assert found["simulations"] == case.config.budget + case.config.test
    assert found["training_core_hours"] > 0.1
    assert not list(tmp_path.iterdir())


def row(
    method: str, steps: int | None, seed: int, c2st: float, plan: str = "full"
) -> dict[str, Any]:
    return {
        "plan": plan, "method": method, "sampling_steps": steps, "budget": 512, "seed": seed, "c2st": c2st,
        "training_seconds": 30.0, "settings": f"{plan}{method}{seed}",
    }  # fmt: skip


def test_a_cell_has_the_figure_of_the_paper_and_ours() -> None:
    published = {
        "title": "T",
        "note": "N.",
        "budgets": [512, 1024],
        "c2st": {"CMPE 10": [0.6, 0.5], "ACF": [0.7, 0.6]},
    }
    rows = [row("CMPE", 10, 0, 0.61), row("CMPE", 10, 1, 0.618), row("our_own", None, 0, 0.55)]
    rows += [row("CMPE", 10, 0, 0.9, "short"), row("ACF", None, 0, 0.74, "short")]
    text = page.section(published, rows)
    assert "| CMPE 10 | 0.600 / 0.614 ± 0.004 (2) | 0.500 / – |" in text
    assert "| ACF | 0.700 / 0.740* (1) | 0.600 / – |" in text
    assert "| our own | – / 0.550 (1) | – / – |" in text
    told = "1 of 2 cells lie within 0.02 of the paper. Further off: ACF at 512 (+0.040)."
    assert f"{told} 5 trainings, 2m30s of training." in " ".join(text.split())
    assert "Not run here yet." in page.section(published, [])


def test_steps_stand_beside_those_of_the_paper() -> None:
    speed = {"steps": [2, 5], "CMPE": {"c2st": [0.656, 0.613], "seconds": [0.0111, 0.0176]}}
    rows = [
        {"method": "CMPE", "budget": 512, "tests": 3, "sampling_steps": k, "c2st": 0.65, "seconds_per_1000": 0.02}
        for k in (2, 100)
    ]  # fmt: skip
    text = page.against_steps({"speed": speed}, rows)
    assert "CMPE at 512, 3 test sets" in text
    assert "| 2 | 0.656 / 0.650 | 0.011 / 0.020 |" in text
    assert "| 100 | – / 0.650 | – / 0.020 |" in text
    assert "| 2 | – / 0.650 | – / 0.020 |" in page.against_steps({}, rows)
    assert page.against_steps({"speed": speed}, []) == ""


def test_the_re_simulation_error_is_its_formula() -> None:
    """A base that slides by 0.3 moves the end point by as much, and nothing else."""
    theta = np.array([[0.1, 0.2, -0.3, 0.4], [0.0, 0.5, 0.1, 0.2]])
    draws = np.repeat(theta[:, None], 5, axis=1) + np.array([0.3, 0, 0, 0])
    assert records.resimulation_error(theta, theta[:, None]) == pytest.approx(0)
    assert records.resimulation_error(theta, draws) == pytest.approx(0.3)
    arm = simulators.load("inverse_kinematics")
    ends = arm.simulate_block(theta, np.random.default_rng(0))["x"]
    assert np.allclose(figures.joints(theta)[:, -1], ends)


MINIATURE = {
    "gaussian_mixture": ["ACF"],
    "two_moons": ["ACF", "NSF", "FMPE", "CMPE"],
    "inverse_kinematics": ["CMPE"],
}


def miniature(name: str, folder: Path) -> None:
    """Write the study of an experiment in miniature, with a tenth of its steps, one budget, some methods."""
    yaml = YAML(typ="safe", pure=True)
    plan = yaml.load((report.STUDIES / "small" / f"{name}.yaml").read_text())
    plan["base"] |= {"test": 2}
    plan["base"]["evaluate"]["draws"] = 100
    plan["axes"] = {"budget": {512: 530}, "seed": [0]}
    plan["cases"] = {method: plan["cases"][method] for method in MINIATURE[name]}
    for case in plan["cases"].values():
        case["train.epochs"] = max(2, case["train.epochs"] // 10)
    (folder / "small").mkdir(parents=True, exist_ok=True)
    with (folder / "small" / f"{name}.yaml").open("w") as file:
        yaml.dump(plan, file)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_miniature_makes_the_whole_page_and_a_repeat_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "studies", tmp_path / "out"
    published = YAML(typ="safe", pure=True).load((report.STUDIES / "published.yaml").read_text())
    for name in published:
        miniature(name, source)
    (source / "published.yaml").write_bytes((report.STUDIES / "published.yaml").read_bytes())
    monkeypatch.setattr(report, "STUDIES", source)
    monkeypatch.setitem(sampling.SIZES, "small", (2, 100))
    monkeypatch.setattr(report, "PAGE", tmp_path / "docs.md")
    arguments = ["report", "--small", "--share", "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    report.main()
    text = (out / "small/paper.md").read_text()
    assert not report.PAGE.exists()
    for one in published.values():
        assert one["title"] in text
    assert "Not run here yet." not in text
    assert text.count("Against the number of sampling steps K") == 2
    assert "Re-simulation error" in text
    pictures = {path.name for path in (out / "small/images").iterdir()}
    assert pictures == set(page.PICTURES)
    assert all(f"](images/{name})" in text for name in pictures)
    lines = {path.name: path.read_text() for path in (out / "small/results").iterdir()}
    assert set(lines) == {f"{name}.jsonl" for name in (*published, "steps")}
    assert (
        len(lines["two_moons.jsonl"].splitlines()) == 6
    )  # ACF, NSF, FMPE and CMPE with two steps each
    capsys.readouterr()
    report.main()
    assert "train:" not in capsys.readouterr().err
    assert {path.name: path.read_text() for path in (out / "small/results").iterdir()} == lines


def test_a_cell_is_asked_for_by_method_budget_and_seed(tmp_path: Path) -> None:
    part = report.Part("two_moons", "short", tmp_path)
    cells = report.Cells(["CMPE", "ACF"], ["512", "1024"], ["0", "2"])
    found = [cases(study, tmp_path) for study in report.missing(part, cells)]
    known = part.records.settings
    names = {
        case.name for case in cases(schema.read(part.source), tmp_path) if case.digest not in known
    }
    asked = {
        f"{method},budget={budget},seed={seed}"
        for method in ("CMPE", "ACF") for budget in (512, 1024) for seed in (0, 2)
    }  # fmt: skip
    assert {case.name for study in found for case in study} == asked & names
