"""Built-in simulators: known moments, normalised likelihoods, references against brute force."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy import stats

import simulators
from simulators.testing import LAWS, Case

SLOW = pytest.mark.slow
# Sets of the test of calibration; those of slcp_distractors and bernoulli_glm_raw are compared
# with slcp and bernoulli_glm, and that of lotka_volterra with importance resampling.
WITH_REFERENCE = {
    "gaussian_linear": 400,
    "gaussian_linear_uniform": 400,
    "gaussian_mixture": 400,
    "gaussian_mixture_uniform": 400,
    "inverse_kinematics": 60,
    "slcp": 400,
    "two_moons": 400,
}
TEMPERED = {"bernoulli_glm": 100, "sir": 30}
NAMES = [
    *WITH_REFERENCE,
    *TEMPERED,
    "bernoulli_glm_raw",
    "lotka_volterra",
    "slcp_distractors",
    "tumor_spheroid",
]


def module(name: str):
    return importlib.import_module(f"simulators.{name}")


def observation(simulator, seed: int):
    rng = np.random.default_rng(seed)
    theta = simulator.prior.sample(rng, 1)[0]
    return theta, simulator.simulate(theta, rng)


def resampled(simulator, x, proposals: int, n: int, seed: int = 0):
    """Draws of the posterior from the prior by importance resampling, with the effective size."""
    rng = np.random.default_rng(seed)
    theta = simulator.prior.sample(rng, proposals)
    log_weight = np.concatenate(
        [
            simulator.log_likelihood(part, x)
            for part in np.array_split(theta, 1 + proposals // 10**6)
        ]
    )
    weight = np.exp(log_weight - log_weight.max())
    size = weight.sum() ** 2 / np.sum(weight**2)
    return theta[rng.choice(proposals, n, p=weight / weight.sum())], size


def test_all_are_tested():
    elsewhere = {
        "imported",
        "program",
        "fashion_denoising",
        "fashion_images",
        "linear_gaussian_image",
    }  # which have files of tests of their own
    assert set(simulators.available()) - elsewhere == set(NAMES)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_contract(name, law):
    law(Case(simulators.load(name), deterministic=name == "inverse_kinematics"))


@pytest.mark.parametrize("name", NAMES)
def test_theory_is_said(name):
    """The module explains the model and says where it is from."""
    assert "Definition:" in module(name).__doc__
    assert "arXiv" in module(name).__doc__


def test_gaussian_linear_moments():
    simulator = simulators.load("gaussian_linear")
    rng = np.random.default_rng(0)
    theta = simulator.prior.sample(rng, 100_000)
    x = simulator.simulate_block(theta, rng)["x"]
    assert x.shape == (100_000, 10)
    np.testing.assert_allclose(theta.var(axis=0), 0.1, rtol=0.03)
    np.testing.assert_allclose((x - theta).var(axis=0), 0.1, rtol=0.03)
    np.testing.assert_allclose((x - theta).mean(axis=0), 0, atol=0.005)


def test_gaussian_linear_reference_is_conjugate():
    simulator = simulators.load("gaussian_linear", dim=3)
    x = {"x": np.array([0.4, -0.2, 1.0])}
    draws = simulator.reference(x, 100_000, np.random.default_rng(1))
    np.testing.assert_allclose(draws.mean(axis=0), [0.2, -0.1, 0.5], atol=0.003)
    np.testing.assert_allclose(np.cov(draws.T), 0.05 * np.eye(3), atol=0.001)


def test_likelihood_of_gaussian_linear():
    simulator = simulators.load("gaussian_linear", dim=2)
    x = {"x": np.array([0.4, -0.2])}
    theta = np.array([[0.0, 0.0], [1.0, 0.3]])
    expected = [stats.multivariate_normal(t, 0.1 * np.eye(2)).logpdf(x["x"]) for t in theta]
    np.testing.assert_allclose(simulator.log_likelihood(theta, x), expected, rtol=1e-12)


def test_two_moons_outputs_by_hand():
    simulator = simulators.load("two_moons")
    theta = simulator.prior.sample(np.random.default_rng(0), 5)
    x = simulator.simulate_block(theta, np.random.default_rng(1))["x"]
    rng = np.random.default_rng(1)
    angle, radius = np.pi * (rng.random(5) - 0.5), 0.1 + 0.01 * rng.standard_normal(5)
    moon = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
    shift = np.stack([-np.abs(theta.sum(axis=1)), theta[:, 1] - theta[:, 0]], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(x, moon + shift, rtol=1e-12)


def test_two_moons_likelihood_integrates_to_one_over_x():
    simulator = simulators.load("two_moons")
    theta = np.array([[0.3, -0.5]])
    centre = np.array([0.25 - 0.2 / np.sqrt(2), -0.8 / np.sqrt(2)])
    axis = (np.arange(160) + 0.5) / 160 * 0.4 - 0.2
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2) + centre
    density = [np.exp(simulator.log_likelihood(theta, {"x": x})[0]) for x in grid]
    assert np.mean(density) * 0.4**2 == pytest.approx(1, rel=0.01)


def two_moons_posterior_cells(simulator, x, cells: int):
    """Posterior mass on a grid of cells over the box, by the likelihood on a finer grid."""
    fine = 48
    axis = (np.arange(cells * fine) + 0.5) / (cells * fine) * 2 - 1
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(simulator.log_likelihood(grid, x)).reshape(cells, fine, cells, fine)
    mass = density.sum(axis=(1, 3))
    return mass / mass.sum()


@pytest.mark.parametrize("seed", range(6))
def test_two_moons_reference_against_a_grid(seed):
    """The last two observations lie at the border: one moon is cut by the box, or by |u| >= 0."""
    simulator = simulators.load("two_moons")
    border = {4: [-1.06, 0.02], 5: [0.29, 0.4]}
    x = {"x": np.array(border[seed])} if seed in border else observation(simulator, seed)[1]
    cells = 60
    expected = two_moons_posterior_cells(simulator, x, cells)
    draws = simulator.reference(x, 100_000, np.random.default_rng(seed))
    assert np.all(np.abs(draws) <= 1)
    found = np.histogram2d(*draws.T, bins=cells, range=[[-1, 1], [-1, 1]])[0]
    used = expected * 1e5 > 5
    assert found[~used].sum() <= 300 + 2 * expected[~used].sum() * 1e5
    deviation = (found - expected * 1e5)[used] / np.sqrt(expected[used] * 1e5)
    assert np.sqrt(np.mean(deviation**2)) < 1.35
    assert np.abs(deviation).max() < 6


def test_two_moons_without_truncation():
    """6.1 % of the untruncated reference lies outside the box, on the average over x."""
    simulator = simulators.load("two_moons")
    rng = np.random.default_rng(0)
    outside, different = [], 0
    for seed in range(1500):
        _, x = observation(simulator, seed)
        draws = simulator.reference(x, 200, rng, "untruncated")
        outside.append(np.mean(np.any(np.abs(draws) > 1, axis=1)))
        different += outside[-1] > 0
    assert np.mean(outside) == pytest.approx(0.061, abs=0.012)
    assert different / 1500 == pytest.approx(0.14, abs=0.03)


def test_an_impossible_observation_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"two_moons: x = \[5\.0, 0\.0\] has \(nearly\) no prob"):
        simulators.load("two_moons").reference({"x": np.array([5.0, 0.0])}, 10, rng)
    arm = simulators.load("inverse_kinematics")
    with pytest.raises(ValueError, match=r"x = \[0\.0, 2\.01\] has \(nearly\) no probability"):
        arm.reference({"x": np.array([0.0, 2.01])}, 10, rng)
    with pytest.raises(ValueError, match=r"x = \[40\.0, 1\.0\] is out of reach"):
        arm.reference({"x": np.array([40.0, 1.0])}, 10, rng)


def test_gaussian_mixture_moments():
    simulator = simulators.load("gaussian_mixture")
    theta = np.tile([[1.0, -2.0]], (40_000, 1))
    x = simulator.simulate_block(theta, np.random.default_rng(0))["x"]
    assert x.shape == (40_000, 10, 2)
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(flat.T), [[1.25, -2], [-2, 4.25]], atol=0.03)
    signs = np.sign(x @ [1.0, -2.0])
    assert abs(np.corrcoef(signs[:, 0], signs[:, 1])[0, 1]) < 0.02  # each point chooses afresh


@pytest.mark.parametrize(("name", "variance"), [("consistent", 0.25), ("as_coded", 0.5)])
def test_gaussian_mixture_reference_against_a_grid(name, variance):
    simulator = simulators.load("gaussian_mixture")
    x = simulator(theta_1=0.3, theta_2=-0.5, seed=4)
    axis = np.linspace(-2.5, 2.5, 251)
    theta = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_density = -0.5 * np.sum(theta**2, axis=1)
    for point in x["x"]:
        plus = -0.5 * np.sum((point - theta) ** 2, axis=1) / variance
        minus = -0.5 * np.sum((point + theta) ** 2, axis=1) / variance
        log_density += np.logaddexp(plus, minus)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    draws = simulator.reference(x, 200_000, np.random.default_rng(0), name)
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(
        draws.T @ draws / 2e5, theta.T @ (weight[:, None] * theta), atol=0.01
    )
    for j in (0, 1):
        marginal = np.cumsum(weight.reshape(251, 251).sum(axis=1 - j))
        edges = axis + 0.01
        found = np.searchsorted(np.sort(draws[:, j]), edges) / 2e5
        assert np.abs(found - marginal).max() < 0.006


def test_gaussian_mixture_likelihood_by_hand():
    simulator = simulators.load("gaussian_mixture")
    x = simulator(theta_1=0.3, theta_2=-0.5, seed=4)
    theta = np.array([[0.2, 0.1], [1.0, -1.0]])
    expected = []
    for t in theta:
        halves = [stats.multivariate_normal(s * t, 0.25 * np.eye(2)).pdf(x["x"]) for s in (1, -1)]
        expected.append(np.log(0.5 * (halves[0] + halves[1])).sum())
    np.testing.assert_allclose(simulator.log_likelihood(theta, x), expected, rtol=1e-12)


def test_inverse_kinematics_outputs_by_hand():
    simulator = simulators.load("inverse_kinematics")
    straight = simulator(theta_1=0.3, theta_2=0, theta_3=0, theta_4=0)["x"]
    np.testing.assert_allclose(straight, [0.3, 2.0])
    bent = simulator(theta_1=0, theta_2=np.pi / 2, theta_3=-np.pi / 2, theta_4=np.pi / 2)["x"]
    np.testing.assert_allclose(bent, [0.5 + 0 + 1, 0 + 0.5 + 0], atol=1e-15)


def test_inverse_kinematics_draws_are_within_epsilon():
    simulator = simulators.load("inverse_kinematics")
    for seed in range(5):
        _, x = observation(simulator, seed)
        draws = simulator.reference(x, 1000, np.random.default_rng(seed))
        again = simulator.simulate_block(draws, np.random.default_rng(0))["x"]
        distance = np.linalg.norm(again - x["x"], axis=1)
        assert distance.max() < 0.002
        assert stats.kstest((distance / 0.002) ** 2, "uniform").pvalue > 1e-4  # even on the disc


@pytest.mark.parametrize("x", [(0.0, 1.5), (0.9, 0.8), (-0.2, 1.95)])
def test_inverse_kinematics_against_plain_rejection(x):
    """The same target as ABC rejection from the prior, at a distance where that is affordable."""
    simulator, epsilon = simulators.load("inverse_kinematics"), 0.1
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(12):
        theta = simulator.prior.sample(rng, 200_000)
        distance = np.linalg.norm(simulator.simulate_block(theta, rng)["x"] - x, axis=1)
        plain.append(theta[distance < epsilon])
    plain = np.concatenate(plain)
    assert len(plain) > 600
    draws = module("inverse_kinematics").abc({"x": np.array(x)}, 20_000, rng, epsilon)
    for columns in (plain, draws):
        columns[:, 0] *= 2  # to the scale of the angles
    directions = np.concatenate(
        [np.eye(4), [[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 1]]]
    )
    for direction in directions:
        assert stats.ks_2samp(plain @ direction, draws @ direction).pvalue > 1e-4


def test_inverse_kinematics_envelope_is_one():
    """Within a cell nothing exceeds its bounds."""
    ik = module("inverse_kinematics")
    grid, rng = ik._grid(), np.random.default_rng(0)
    cell = rng.integers(grid.centre.shape[1], size=200_000)
    half = ik.EXTENT / ik.CELLS
    angles = grid.centre[:, cell] + half * rng.uniform(-1, 1, (3, 200_000))
    reach, height = ik._end_point(angles)
    assert np.all(np.abs(reach - grid.reach[cell]) <= grid.reach_range[cell])
    assert np.all(np.abs(height - grid.height[cell]) <= grid.height_range[cell])
    prior = np.exp(-0.5 * np.sum(angles**2, axis=0) / ik.ANGLE_STD**2)
    assert np.all(prior <= grid.prior[cell] * (1 + 1e-12))


def test_slcp_moments():
    simulator = simulators.load("slcp")
    theta = np.tile([[0.7, -1.0, 1.2, -0.8, 0.9]], (50_000, 1))
    x = simulator.simulate_block(theta, np.random.default_rng(0))["x"]
    assert x.shape == (50_000, 8)
    s1, s2, rho = 1.2**2, 0.8**2, np.tanh(0.9)
    points = x.reshape(-1, 2)
    np.testing.assert_allclose(points.mean(axis=0), [0.7, -1.0], atol=0.01)
    expected = [[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]]
    np.testing.assert_allclose(np.cov(points.T), expected, atol=0.02)
    assert abs(np.corrcoef(x[:, 0], x[:, 2])[0, 1]) < 0.02


def test_slcp_likelihood_by_hand():
    simulator = simulators.load("slcp")
    theta = np.array([[0.7, -1.0, 1.2, -0.8, 0.9], [0.0, 2.0, -2.0, 1.5, -2.5]])
    x = {"x": np.random.default_rng(0).standard_normal(8)}
    expected = []
    for m1, m2, t3, t4, t5 in theta:
        s1, s2, rho = t3**2, t4**2, np.tanh(t5)
        cov = [[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]]
        expected.append(stats.multivariate_normal([m1, m2], cov).logpdf(x["x"].reshape(4, 2)).sum())
    np.testing.assert_allclose(simulator.log_likelihood(theta, x), expected, rtol=1e-10)


# Points around the middle of the box, and points whose mean lies far outside of it.
SLCP = {
    "inside": [0.5, -1.0, 2.5, 0.5, -1.5, 0.0, 3.0, -3.0],
    "outside": [6.0, 5.0, 2.0, 9.0, 7.0, -2.0, 3.0, 4.0],
    "correlated": [3.0, 3.1, 0.0, 0.3, -4.0, -3.0, 5.0, 4.4],
}


@pytest.mark.parametrize("points", SLCP.values(), ids=SLCP)
def test_slcp_reference_against_importance_sampling(points):
    simulator = simulators.load("slcp")
    x = {"x": np.array(points)}
    other, size = resampled(simulator, x, 3_000_000, 20_000)
    assert size > 500
    draws = simulator.reference(x, 20_000, np.random.default_rng(1))
    assert np.all(np.abs(draws) <= 3)
    tolerance = 2.2 * np.sqrt(1 / size + 2 / 20_000)  # Kolmogorov-Smirnov, level 1e-4
    pairs = [np.eye(5), [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 0, 1], [0, 1, 0, 0, -1]]]
    for direction in np.concatenate(pairs):
        assert stats.ks_2samp(draws @ direction, other @ direction).statistic < tolerance
    folded = np.abs(draws[:, 2:4]), np.abs(other[:, 2:4])
    for direction in ([1, 1], [1, -1], [1, 0], [0, 1]):
        first, second = (values @ direction for values in folded)
        assert stats.ks_2samp(first, second).statistic < tolerance


@pytest.mark.parametrize(
    ("name", "sets"),
    [*WITH_REFERENCE.items(), *(pytest.param(*one, marks=SLOW) for one in TEMPERED.items())],
)
def test_reference_is_calibrated(name, sets):
    """Ranks of the true theta among the draws of the first reference are uniform (SBC)."""
    simulator = simulators.load(name)
    draws, ranks = 99, []
    for seed in range(sets):
        theta, x = observation(simulator, seed)
        posterior = simulator.reference(x, draws, np.random.default_rng([seed, 1]))
        ranks.append((posterior < theta).sum(axis=0))
    uniform = (np.array(ranks) + np.random.default_rng(0).random((sets, len(theta)))) / (draws + 1)
    for j in range(len(theta)):
        assert stats.kstest(uniform[:, j], "uniform").pvalue > 1e-4
