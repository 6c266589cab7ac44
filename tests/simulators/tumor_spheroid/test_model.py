"""Laws of the tumour spheroid, its interface and its errors."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numba
import numpy as np
import pytest

import simulators
from benchmarks.tumor_equality import original_centres, original_runs, reference
from simulators.tumor_spheroid import growth, lattice, matrix, state
from simulators.tumor_spheroid.lattice import SEED, search_pattern
from simulators.tumor_spheroid.model import VALID, grow
from simulators.tumor_spheroid.picture import draw_gif, draw_strip

DEFAULTS = state.Parameters(0.0417, 12.0, 0.75, 100.0, 0.005, 0.0008, 0.01)
FAST_GROWTH = {"division_rate": 0.1, "division_depth": 1000.0, "ecm_production_rate": 1.0}


@pytest.fixture(scope="module")
def model() -> simulators.Simulator:
    return simulators.load("tumor_spheroid")


def grown(parameters: state.Parameters, seed: int, side: int = 100) -> tuple:
    sites = lattice(side)
    pattern = search_pattern(side, SEED, sites.middle)
    rng = np.random.default_rng(seed)
    return grow(sites, pattern, parameters, rng, 500.0, np.empty(0))


def test_outputs(model: simulators.Simulator) -> None:
    x = model(division_rate=0.05, initial_spheroid_radius=10.0, seed=1)
    shapes = {key: value.shape for key, value in x.items()}
    assert shapes == {
        "growth_curve": (20,),
        "extra_cellular_matrix_profile": (1000,),
        "proliferation_profile": (1000,),
    }
    assert (np.diff(x["growth_curve"]) >= 0).all()
    assert (x["proliferation_profile"] <= 1).all()
    depth = np.flatnonzero(x["extra_cellular_matrix_profile"]).max()
    assert 300 < depth < 700
    assert not x["extra_cellular_matrix_profile"][depth + 1 :].any()


def test_one_seed_one_result(model: simulators.Simulator) -> None:
    once, again, other = model(seed=3), model(seed=3), model(seed=4)
    restored = pickle.loads(pickle.dumps(model))(seed=3)
    for key, value in once.items():
        np.testing.assert_array_equal(value, again[key])
        np.testing.assert_array_equal(value, restored[key])
    assert (once["growth_curve"] != other["growth_curve"]).any()


def test_prior_is_log_uniform_over_the_papers_ranges(model: simulators.Simulator) -> None:
    assert list(model.prior.names) == reference()["param_names"].tolist() == list(DEFAULTS._fields)
    np.testing.assert_allclose(np.log10(model.prior.low), [-3, 0, -5, 1, -5, -5, -5])
    np.testing.assert_allclose(np.log10(model.prior.high), [-1, 1.2, 0, 3, 0, 0, 0], atol=1e-12)
    log = np.log10(model.prior.sample(np.random.default_rng(0), 4000))
    middle = np.log10(model.prior.low * model.prior.high) / 2
    np.testing.assert_allclose(log.mean(axis=0), middle, atol=0.1)


@pytest.mark.parametrize("name", DEFAULTS._fields)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e12])
def test_bad_parameter_is_named(model: simulators.Simulator, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}=.* is not in [\[(]"):
        model(**{name: value})


def test_disc_larger_than_the_domain_is_refused(model: simulators.Simulator) -> None:
    with pytest.raises(ValueError, match=r"initial_spheroid_radius=51.0 is not in \(0, 50\]"):
        model(initial_spheroid_radius=51.0)
    larger = simulators.load("tumor_spheroid", side=120)
    assert larger(initial_spheroid_radius=51.0, seed=0)["growth_curve"][0] > 600


@pytest.mark.parametrize(
    "arguments",
    [
        {"side": 5},
        {"lattice_seed": -1},
        {"centre": 10_000},
        {"end_time": 400.0},
        {"end_time": 1e6},
        {"snapshot_times": [10.0, 5.0]},
        {"snapshot_times": [501.0]},
    ],
)
def test_bad_argument_is_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        simulators.load("tumor_spheroid", **arguments)


@pytest.mark.parametrize("corner", ["low", "high"])
def test_limits_of_the_valid_range_end(model: simulators.Simulator, corner: str) -> None:
    extreme = {name: limits[corner == "high"] for name, limits in VALID.items()}
    x = model(**extreme, initial_spheroid_radius=0.01 if corner == "low" else 50.0, seed=0)
    assert all(np.isfinite(value).all() for value in x.values())


def test_nothing_grows_without_divisions(model: simulators.Simulator) -> None:
    x = model(division_rate=0.0, seed=0)
    assert np.ptp(x["growth_curve"]) == 0
    slow = np.mean([model(division_rate=1e-4, seed=s)["growth_curve"][-1] for s in range(5)])
    assert slow == pytest.approx(x["growth_curve"][0], abs=2.0)


def test_size_rises_with_the_division_rate() -> None:
    sizes = [
        np.mean(
            [grown(DEFAULTS._replace(division_rate=k), s)[1].counts[state.FULL] for s in range(4)]
        )
        for k in (0.01, 0.02, 0.04, 0.08)
    ]
    assert (np.diff(sizes) > 200).all()


def test_no_cell_re_enters_below_the_ecm_threshold() -> None:
    starved = DEFAULTS._replace(ecm_production_rate=0.0)
    _, tumour, _ = grown(starved, 0)
    initial = grown(starved._replace(division_rate=0.0), 0)[1]
    cycling = initial.cycling.sum()
    assert tumour.counts[state.CELLS] - initial.counts[state.CELLS] <= cycling
    assert tumour.counts[state.ACTIVE] == 0


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.0417, 0.1])
def test_sites_and_clocks_are_conserved(rate: float) -> None:
    sites = lattice()
    _, tumour, _ = grown(DEFAULTS._replace(division_rate=rate), 5)
    cells = int(tumour.counts[state.CELLS])
    first, second = tumour.first[:cells], tumour.second[:cells]
    held = np.concatenate([first, second[second >= 0]])
    assert len(set(held.tolist())) == len(held) == tumour.counts[state.FULL]
    assert set(held.tolist()) == set(np.flatnonzero(tumour.owner >= 0).tolist())
    np.testing.assert_array_equal(tumour.owner[first], np.arange(cells))
    np.testing.assert_array_equal(tumour.owner[second[second >= 0]], np.flatnonzero(second >= 0))

    empty = tumour.owner < 0
    counted = np.add.reduceat(empty[sites.neighbours].astype(int), sites.ptr[:-1])
    np.testing.assert_array_equal(tumour.empties, counted)

    clocks = tumour.clocks[: tumour.counts[state.ACTIVE]]
    running = np.flatnonzero(tumour.slot[:cells] >= 0)
    assert sorted(clocks.tolist()) == running.tolist()
    expected = (second >= 0) | (tumour.cycling[:cells] & ~tumour.stuck[:cells])
    np.testing.assert_array_equal(np.flatnonzero(expected), running)
    assert (tumour.slot[:cells] == state.IDLE_CLOCK).sum() == tumour.counts[state.IDLE]


def test_full_domain(model: simulators.Simulator) -> None:
    x = model(**FAST_GROWTH, seed=0)
    assert x["growth_curve"][-1] == pytest.approx(768.369, abs=1e-3)
    assert not x["proliferation_profile"][600:].any()


def test_initial_radius_follows_from_the_originals_seed() -> None:
    for point in (3, 6, 10, 11, 14, 15, 16, 19, 20, 21, 22, 23, 25):
        radius = reference()["theta"][point, 1]
        stored = original_runs(point)["growth_curve"][:, 0]
        for centre, theirs in zip(original_centres(point), stored, strict=True):
            ours = simulators.load("tumor_spheroid", centre=centre)
            x = ours(division_rate=0.0, initial_spheroid_radius=radius, seed=0)
            assert x["growth_curve"][0] == pytest.approx(theirs, abs=2e-3)


@numba.njit
def lazy_history(sites, tumour, powers, parameters, filled, steps, end):
    matrix.fill_powers(powers, parameters.ecm_degradation_rate)
    for i in range(filled.size):
        tumour.owner[filled[i]] = i
        growth.fill(sites, tumour, powers, parameters, filled[i], steps[i])
    for s in range(tumour.ecm.size):
        matrix.bring_up(tumour, powers, s, end)


@pytest.mark.parametrize("degradation", [0.0, 1e-5, 0.0008, 0.3, 1.0, 10.0])
def test_lazy_ecm_is_the_explicit_euler_scheme(degradation: float) -> None:
    sites, end = lattice(12), 20_000
    rng = np.random.default_rng(0)
    filled = rng.permutation(144)[:60]
    steps = np.sort(rng.integers(0, end, 60))
    parameters = DEFAULTS._replace(ecm_degradation_rate=degradation, ecm_production_rate=0.3)
    tumour = state.new_tumour(sites)
    lazy_history(sites, tumour, state.new_powers(500.0), parameters, filled, steps, end)

    ecm, source, born = np.zeros(144), np.zeros(144), 0
    for step in range(end):
        while born < 60 and steps[born] == step:
            around = sites.neighbours_of(filled[born])
            source[around] += 0.3 / (2 * len(around))
            source[filled[born]] += 0.15
            born += 1
        ecm = ecm + 0.01 * (source - degradation * ecm)
    assert born == 60
    np.testing.assert_allclose(tumour.ecm, ecm, rtol=1e-9)


def test_snapshots_show_growth_and_do_not_change_the_run(model: simulators.Simulator) -> None:
    times = [0.0, 100.0, 480.0]
    x = simulators.load("tumor_spheroid", snapshot_times=times)(seed=2)
    np.testing.assert_array_equal(x["growth_curve"], model(seed=2)["growth_curve"])
    occupied = x["snapshot_state"] > state.EMPTY
    np.testing.assert_array_equal(occupied, x["snapshot_cell"] >= 0)
    assert (occupied[1:] >= occupied[:-1]).all()
    assert 440 < occupied[0].sum() < 460
    assert not x["snapshot_ecm"][0].any()
    assert (x["snapshot_ecm"][2] >= x["snapshot_ecm"][1]).mean() > 0.99


def test_longer_runs_on_larger_lattices() -> None:
    far = simulators.load("tumor_spheroid", side=150, end_time=720.0)(seed=0)
    assert far["growth_curve"].shape == (30,)
    assert far["growth_curve"][-1] > 900


def test_pictures(tmp_path: Path) -> None:
    strip = draw_strip(tmp_path / "strip.png", (24.0, 240.0), side=40, seed=1)
    gif = draw_gif(tmp_path / "growth.gif", (24.0, 240.0), side=40, seed=1)
    assert strip.read_bytes().startswith(b"\x89PNG")
    assert gif.read_bytes().startswith(b"GIF89a")
