"""The CMPE of the paper: every choice does what it says, in both protocols."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

import estimators
import simulators
from benchmarks.paper import NAME, figures, page, records, report
from benchmarks.paper import steps as sampling
from benchmarks.paper.cmpe_paper import CMPEPaper
from benchmarks.paper.protocol import PROTOCOLS
from estimators import testing
from pipeline.plan.requirements import require
from pipeline.study import schema
from pipeline.study.case import cases
from pipeline.study.forecast import forecast

CPU = torch.device("cpu")
LAWFUL = {
    # The law of bounds is what `bounds = ignore` breaks, see `test_ignored_bounds_are_left`.
    "as_coded": {"protocol": "as_coded", "bounds": "reflect"},
    "corrected": {"protocol": "corrected"},
    "other": {
        "protocol": "corrected",
        "bounds": "probit",
        "time_input": "log_fourier",
        "scale_input": True,
        "standardise_theta": True,
        "standardise_x": True,
        "sigma": "shared",
        "times": "uniform",
        "weighting": "none",
        "visit_epsilon": True,
        "summary": "deepset",
    },
}


def model(protocol: str = "corrected", **arguments: Any) -> CMPEPaper:
    estimator = testing.trained(NAME, protocol=protocol, width=32, **arguments)
    assert isinstance(estimator, CMPEPaper)
    return estimator


def tensors(n: int = 64) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    theta, x = testing.rows(n)
    return torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", LAWFUL)
@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_law(case: str, law: testing.Callable) -> None:
    law(NAME, width=32, **LAWFUL[case])


@pytest.mark.slow
@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_law_as_coded_but_for_the_bounds(law: testing.Callable) -> None:
    if law is not testing.draws_have_their_shape_and_bounds:
        law(NAME, width=32, protocol="as_coded")


def test_ignored_bounds_are_left() -> None:
    x = testing.rows(5)[1]
    low, high = torch.tensor(testing.LOW), torch.tensor(testing.HIGH)
    for bounds, outside in (("ignore", True), ("reflect", False)):
        draws = model("as_coded", bounds=bounds).posterior().sample(x, 200, seed=0).double()
        assert bool(((draws < low) | (draws > high)).any()) == outside


def test_protocols_differ_in_every_choice_and_each_can_be_overridden() -> None:
    coded, corrected = asdict(PROTOCOLS["as_coded"]), asdict(PROTOCOLS["corrected"])
    for name, value in corrected.items():
        assert coded[name] != value
        changed = testing.make(NAME, protocol="as_coded", width=32, **{name: value})
        assert isinstance(changed, CMPEPaper)
        assert asdict(changed.choices) == {**coded, name: value}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_at_the_shortest_time_it_is_the_identity(protocol: str) -> None:
    f, u, context = model(protocol), 10 * torch.randn(64, 2), torch.randn(64, 11)
    assert torch.equal(f.f(u, context, torch.full((64, 1), f.epsilon)), u)
    assert not torch.allclose(f.f(u, context, torch.full((64, 1), 0.1)), u)


def test_scalings_are_the_published_ones() -> None:
    """With F = 1 the consistency function is c_skip u + c_out."""
    f = testing.make(NAME, protocol="as_coded", width=8)
    for parameter in f.network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(f.network.last.bias)
    theta = torch.tensor(testing.rows()[0])
    s2, u, t = theta.var(0, correction=0).float(), torch.randn(7, 2), 0.3
    skip = s2 / ((t - 1e-3) ** 2 + s2)
    out = s2.sqrt() * (t - 1e-3) / (s2 + t**2).sqrt()
    found = f.f(u, torch.zeros(7, 11), torch.tensor([[t]]))
    assert torch.allclose(found, skip * u + out, rtol=1e-5)


@pytest.mark.parametrize(
    ("extra", "ticks", "expected"),
    [(False, 0.0, [10, 20, 40, 50]), (True, 0.0, [11, 21, 41, 51]), (True, 0.5, [11, 21, 41, 51])],
)
def test_curriculum(extra: bool, ticks: float, expected: list[int]) -> None:
    f = testing.make(NAME, width=8, extra_interval=extra, validation_ticks=ticks)
    progress = np.linspace(0, 1, 20_001)
    found = np.array([f.intervals(p) for p in progress])
    assert sorted(set(found)) == expected
    # The stages are equally long but for the last: N doubles at k / (log2(5) + 1) of the counter.
    stage = 1 / (math.log2(5) + 1) / (1 + ticks)
    starts = [progress[np.argmax(found == n)] for n in expected]
    assert starts == pytest.approx([0, stage, 2 * stage, 3 * stage], abs=1e-4)


def test_stage_has_the_grid_and_its_weights() -> None:
    f = testing.make(NAME, width=8, s0=4, s1=4, weighting="inverse")
    table, edges = f.stage(0.5, CPU)
    t = f.grid(4).float()
    assert torch.equal(table[:, 0], t[:-1])
    assert torch.equal(table[:, 1], t[1:])
    assert torch.allclose(table[:, 2], 1 / t.diff(), rtol=1e-4)
    normal = [0.5 * math.erf((math.log(v) + 1.1) / math.sqrt(8)) for v in t.tolist()]
    shares = np.diff(normal) / (normal[-1] - normal[0])
    assert np.allclose(edges.numpy(), shares.cumsum()[:-1], atol=1e-6)
    plain = testing.make(NAME, width=8, s0=4, s1=4, weighting="none", times="uniform")
    table, edges = plain.stage(0.5, CPU)
    assert torch.equal(table[:, 2], torch.ones(4))
    assert torch.allclose(edges, torch.tensor([0.25, 0.5, 0.75]))


def test_pseudo_huber_of_coordinates_and_of_the_vector() -> None:
    gap = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    vector = model(huber=0.1, huber_norm="vector").distance(gap)
    coordinates = model(huber=0.1, huber_norm="coordinate").distance(gap)
    c2 = 0.1**2 * 2
    assert vector[:, 0].tolist() == pytest.approx(
        [math.sqrt(25 + c2) - math.sqrt(c2), 0.0], abs=1e-6
    )
    mean = (math.sqrt(9 + c2) + math.sqrt(16 + c2)) / 2 - math.sqrt(c2)
    assert coordinates[:, 0].tolist() == pytest.approx([mean, 0.0], abs=1e-6)


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_masks_of_both_sides(masks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = model(dropout=0.5, masks=masks).train()
    seen = []
    original = f.f

    def watched(noisy: Any, context: Any, t: Any, mask: Any) -> torch.Tensor:
        seen.append(mask)
        return original(noisy, context, t, mask)

    monkeypatch.setattr(f, "f", watched)
    f.loss(*tensors(), 0.5)
    teacher, student = seen
    assert torch.equal(teacher, student) == (masks == "shared")
    assert set(torch.cat(seen).unique().tolist()) == {0.0, 2.0}


def test_dropout_that_is_always_active_moves_draws_but_not_their_seed() -> None:
    x = testing.rows(3)[1]
    posteriors = {
        always: model("as_coded", dropout=0.5, dropout_always=always).posterior()
        for always in (True, False)
    }
    draws = {always: p.sample(x, 20, seed=1) for always, p in posteriors.items()}
    assert not torch.allclose(draws[True], draws[False])  # equal weights: training drops the same
    assert torch.equal(draws[True], posteriors[True].sample(x, 20, seed=1))
    with pytest.raises(NotImplementedError, match="dropout_always"):
        posteriors[True].sample_with_log_prob(x, 2, sampling_steps=1)
    free = model("as_coded", dropout=0.0).posterior()
    assert free.sample_with_log_prob(x, 2, sampling_steps=1)[1].isfinite().all()


def test_sigma_is_that_of_the_parameters_fixed_or_two_weights() -> None:
    variance = torch.tensor(testing.rows()[0]).var(0, correction=0).float()
    for sigma, expected in (
        ("per_dimension", variance),
        ("shared", variance.mean(0, keepdim=True)),
        (0.5, torch.tensor([0.25])),
    ):
        fresh = testing.make(NAME, width=8, sigma=sigma)
        assert torch.allclose(fresh.variance, expected)
        assert torch.allclose(fresh.spread, expected.sqrt())
    assert torch.allclose(model().variance, variance)
    drifted = model("as_coded")
    weights = dict(drifted.named_parameters())
    assert {"variance", "spread"} <= set(weights)
    assert not torch.allclose(drifted.spread.square(), drifted.variance)


def test_start_of_a_draw() -> None:
    wide, narrow = model(start="marginal", T=1.0), model(start="T", T=1.0)
    assert narrow.initial_spread(1.0) == 1.0
    assert torch.allclose(wide.initial_spread(1.0), (wide.variance + 1).sqrt())


def test_epsilon_is_visited_or_not() -> None:
    f, plain = model(visit_epsilon=True), model()
    assert f.times(5) == [*plain.times(4), f.epsilon]
    assert f.times(1) == plain.times(1)
    x = testing.rows(2)[1]
    last = f.posterior().sample(x, 5, sampling_steps=5, seed=0)
    assert torch.equal(last, plain.posterior().sample(x, 5, sampling_steps=4, seed=0))


def test_l2_counts_all_kernels_but_the_last() -> None:
    theta, x = tensors()
    values = []
    for l2 in (0.0, 1.0):
        f = testing.make(NAME, width=8, l2=l2, dropout=0.0)
        torch.manual_seed(0)
        values.append(f.loss(theta, x, 0.5).item())
    kernels = [layer.weight for layer in (f.network.first, *f.network.layers)]
    squares = sum(float(w.detach().square().sum()) for w in kernels)
    assert values[1] - values[0] == pytest.approx(squares, rel=1e-3)


def test_outputs_are_taken_as_they_are_or_standardised() -> None:
    theta, x = testing.rows()
    raw = testing.make(NAME, width=8)
    _, tensor = tensors(8)
    flat = torch.cat([tensor[name].flatten(1) for name in sorted(tensor)], dim=1)
    assert torch.equal(raw.summary(tensor), flat)
    assert torch.equal(raw.transform(torch.tensor(theta).float()), torch.tensor(theta).float())
    scaled = testing.make(NAME, width=8, standardise_x=True, standardise_theta=True)
    assert scaled.transform(torch.tensor(theta)).std(0).tolist() == pytest.approx([1, 1], rel=0.01)
    x["counts"] *= 1e4
    with pytest.raises(ValueError, match=r"standardise_x = True"):
        estimators.create(NAME, theta, x, width=8)
    estimators.create(NAME, theta, x, width=8, standardise_x=True)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("protocol", "coded", ValueError),
        ("extra_interval", 1, TypeError),
        ("validation_ticks", -0.1, ValueError),
        ("huber_norm", "vectors", ValueError),
        ("masks", "same", ValueError),
        ("dropout_always", "yes", TypeError),
        ("sigma_trainable", 0.5, TypeError),
        ("start", "sigma", ValueError),
        ("bounds", "clamp", ValueError),
        ("width", 0, ValueError),
        ("depth", 1.5, TypeError),
        ("dropout", 1.0, ValueError),
        ("l2", -1.0, ValueError),
        ("time_input", "fourier", ValueError),
        ("scale_input", "no", TypeError),
        ("standardise_theta", 1, TypeError),
        ("standardise_x", 1, TypeError),
        ("sigma", "wide", ValueError),
        ("sigma", 0.0, ValueError),
        ("epsilon", 0.0, ValueError),
        ("T", 1e-4, ValueError),
        ("rho", 0.5, ValueError),
        ("s0", 1, ValueError),
        ("s1", 5, ValueError),
        ("times", "normal", ValueError),
        ("p_std", 0.0, ValueError),
        ("weighting", "1/dt", ValueError),
        ("huber", 0.0, ValueError),
        ("sampling_steps", 0, ValueError),
        ("visit_epsilon", 0, TypeError),
        ("summary", "deepsets", LookupError),
    ],
)
def test_bad_argument_is_named(key: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=key):
        testing.make(NAME, **{key: value})


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_learns_a_known_posterior(protocol: str) -> None:
    """theta ~ N(0, 1), x ~ N(theta, 1): the posterior is N(x / 2, 1 / 2)."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(4096, 1))
    x = {"x": theta + rng.normal(size=theta.shape)}
    torch.manual_seed(0)
    f = estimators.create(NAME, theta, x, protocol=protocol, width=64)
    data = torch.tensor(theta).float(), torch.tensor(x["x"]).float()
    optimiser = torch.optim.Adam(f.parameters(), lr=3e-3, fused=True)
    steps = 1500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rows = torch.randint(len(theta), (128,))
        optimiser.zero_grad()
        f.loss(data[0][rows], {"x": data[1][rows]}, step / steps).backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    observed = np.array([[-1.5], [0.0], [2.0]])
    draws = f.posterior().sample({"x": observed}, 4000, sampling_steps=4, seed=0)[..., 0].numpy()
    assert np.allclose(draws.mean(1), observed[:, 0] / 2, atol=0.12)
    assert np.allclose(draws.std(1), math.sqrt(0.5), atol=0.1)


# --- its contenders, and its studies -------------------------------------------------------------

CONTENDERS = (
    "benchmarks.paper.fmpe_paper:FMPEPaper",
    "benchmarks.paper.flow_paper:ACFPaper",
    "benchmarks.paper.flow_paper:NSFPaper",
)


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
