"""A simulator from a function, by name or by vector, single and batched, and from a class."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest

from simulators import LogUniform, MultivariateNormal, OutputError, Uniform, simulator

PRIOR = {"mu": Uniform(-3, 3), "sigma": LogUniform(0.1, 2)}


@simulator(prior=PRIOR)
def gaussian(mu, sigma, rng):
    return {"x": rng.normal(mu, sigma, 10)}


@simulator(prior=PRIOR, batched=True)
def gaussian_block(mu, sigma, rng):
    return mu[:, None] + sigma[:, None] * rng.standard_normal((len(mu), 10))


@simulator(prior={"mu": Uniform(-3, 3)}, references={"flat": lambda x, n, rng: rng.random((n, 1))})
def with_arguments(mu, rng, points=4, scale=(1, 2)):
    return mu + scale[1] * rng.standard_normal(points)


@simulator(version="3")
class Walk:
    """A random walk of some steps."""

    def __init__(self, steps: int = 5) -> None:
        self.steps = steps
        self.prior = {"drift": Uniform(0, steps)}
        self.references = {"none": lambda x, n, rng: np.full((n, 1), float(steps))}

    def simulate(self, drift, rng):
        return {"path": np.cumsum(drift + rng.standard_normal(self.steps))}


def test_one_simulation_by_name():
    x = gaussian(mu=0.5, sigma=1.0, seed=3)
    np.testing.assert_array_equal(x["x"], np.random.default_rng(3).normal(0.5, 1.0, 10))


def test_a_single_simulator_gets_floats():
    @simulator(prior=PRIOR)
    def typed(mu, sigma, rng):
        assert type(mu) is float
        assert isinstance(rng, np.random.Generator)
        return np.array([mu, sigma])

    np.testing.assert_array_equal(typed(mu=1, sigma=2)["x"], [1, 2])


def test_a_batched_simulator_gets_arrays():
    theta = gaussian_block.prior.sample(np.random.default_rng(0), 7)
    block = gaussian_block.simulate_block(theta, np.random.default_rng(1))
    z = np.random.default_rng(1).standard_normal((7, 10))
    np.testing.assert_array_equal(block["x"], theta[:, :1] + theta[:, 1:] * z)
    assert gaussian_block(mu=0, sigma=1, seed=1)["x"].shape == (10,)


def test_a_model_may_take_the_whole_vector():
    names = [f"theta_{j}" for j in range(6)]

    @simulator(prior=MultivariateNormal(names, np.zeros(6), np.eye(6)), batched=True)
    def identity(theta):
        return {"x": theta, "size": (theta**2).sum(axis=1)}

    theta = identity.prior.sample(np.random.default_rng(0), 3)
    block = identity.simulate_block(theta, np.random.default_rng(1))
    assert np.array_equal(block["x"], theta)
    assert not np.shares_memory(block["x"], theta)
    assert block["size"].shape == (3,)
    assert identity(**dict.fromkeys(names, 1.0))["size"] == 6


def test_a_model_may_take_any_names():
    @simulator(prior=PRIOR)
    def keyed(rng, **parameters):
        return np.array([parameters["mu"], parameters["sigma"]])

    np.testing.assert_array_equal(keyed(mu=1, sigma=2)["x"], [1, 2])


def test_a_missing_parameter_takes_its_default_or_is_named():
    @simulator(prior=PRIOR)
    def defaulted(mu, rng, sigma=1.5):
        return np.array([mu, sigma])

    np.testing.assert_array_equal(defaulted(mu=1)["x"], [1, 1.5])
    assert defaulted.arguments == {}
    with pytest.raises(TypeError, match="defaulted needs a value for 'mu', which has no default"):
        defaulted(sigma=1)


def test_an_unknown_parameter_gets_a_close_match():
    with pytest.raises(TypeError, match=r"no parameter 'sigam'; did you mean 'sigma'\?.*mu, sigma"):
        gaussian(mu=0, sigam=1)


def test_a_parameter_is_one_number():
    with pytest.raises(TypeError, match=r"parameter 'mu' must be one number, got \[1, 2\]"):
        gaussian(mu=[1, 2], sigma=1)


def test_prior_and_signature_that_differ_are_both_named():
    with pytest.raises(
        ValueError, match=r"'tau', which the model does not take.*'sigma', which has"
    ):

        @simulator(prior={"mu": Uniform(0, 1), "tau": Uniform(0, 1)})
        def model(mu, sigma, rng):
            return mu


def test_a_prior_with_low_above_high_names_the_parameter():
    with pytest.raises(ValueError, match=r"'mu'.*low < high.*Uniform\(low=3, high=-3\)"):

        @simulator(prior={"mu": Uniform(3, -3)})
        def model(mu, rng):
            return mu


def test_positional_parameters_are_refused():
    with pytest.raises(TypeError, match="'mu' cannot be given by name"):

        @simulator(prior={"mu": Uniform(0, 1)})
        def model(mu, /, rng):
            return mu


def test_identity_is_json_and_complete():
    identity = gaussian.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity == {
        "name": "gaussian",
        "version": "1",
        "arguments": {},
        "prior": {
            "mu": {"name": "uniform", "low": -3.0, "high": 3.0},
            "sigma": {"name": "log_uniform", "low": 0.1, "high": 2.0},
        },
    }


def test_keywords_with_a_default_are_arguments():
    made = with_arguments.factory(points=7)
    assert with_arguments.arguments == {"points": 4, "scale": [1, 2]}
    assert made.arguments == {"points": 7, "scale": [1, 2]}
    assert made(mu=0, seed=0)["x"].shape == (7,)
    with pytest.raises(TypeError, match="no argument 'pionts'; did you mean 'points'"):
        with_arguments.factory(pionts=7)
    with pytest.raises(ValueError, match="'mu' has a prior, so it is not an argument"):
        with_arguments.factory(mu=1.0)
    with pytest.raises(TypeError, match="argument 'points' must be finite numbers"):
        with_arguments.factory(points=object())


def test_references_hold_for_the_own_prior_and_arguments():
    x, rng = {"x": np.zeros(4)}, np.random.default_rng(0)
    assert with_arguments.reference(x, 5, rng).shape == (5, 1)
    assert with_arguments.factory(prior={"mu": Uniform(-3, 3)}).references
    for other in ({"prior": {"mu": Uniform(-1, 1)}}, {"points": 9}):
        with pytest.raises(ValueError, match="no reference posterior"):
            with_arguments.factory(**other).reference(x, 5, rng)
    with pytest.raises(ValueError, match="no reference 'exact'; valid: flat"):
        with_arguments.reference(x, 5, rng, "exact")
    with pytest.raises(ValueError, match="gives no likelihood"):
        with_arguments.log_likelihood(np.zeros((1, 1)), x)


def test_a_class_is_made_with_arguments():
    walk = Walk(steps=3)
    assert walk(drift=10, seed=0)["path"].shape == (3,)
    assert walk.identity()["arguments"] == {"steps": 3}
    assert walk.version == "3"
    assert walk.prior.high == [3]
    assert walk.reference({}, 2, np.random.default_rng(0)).tolist() == [[3.0], [3.0]]
    assert Walk().arguments == {"steps": 5}
    with pytest.raises(TypeError, match=r"no argument 'step'; did you mean 'steps'"):
        Walk(step=3)


def test_a_class_needs_simulate():
    @simulator(prior=PRIOR)
    class Nothing:
        pass

    with pytest.raises(TypeError, match=r"needs a method simulate\(..., rng\)"):
        Nothing()


def test_a_function_without_a_prior_waits_for_one():
    @simulator()
    def waiting(mu, rng):
        return np.array(mu)

    assert waiting(prior={"mu": Uniform(0, 1)})(mu=0.5)["x"] == 0.5
    with pytest.raises(ValueError, match="waiting has no prior of its own: give one"):
        waiting()


@pytest.mark.parametrize(
    ("returned", "kind", "said"),
    [
        ({}, ValueError, "no outputs"),
        (None, ValueError, "returned None"),
        ({"y": None}, ValueError, "output 'y' is None"),
        ("text", OutputError, "got dtype <U4"),
        (1j, OutputError, r"'x' must hold real numbers \(.*64 bits\), got dtype complex128"),
        (np.longdouble(1), OutputError, "got dtype float128"),
        (np.array([None]), OutputError, "got dtype object"),
        (np.datetime64("2020"), OutputError, "got dtype datetime64"),
        ([[1.0], [1.0, 2.0]], OutputError, "'x' is no array"),
        ({"y": {"z": 1}}, OutputError, "'y' must hold real numbers .* got dtype object"),
        (np.ma.masked_less([1.0, -1.0], 0), OutputError, "'x' is a masked array, whose mask would"),
        (np.ma.masked_array([1.0]), OutputError, "'x' is a masked array"),
        ({1: 2}, OutputError, "output name 1 must be a Python identifier"),
        ({"a/b": 2}, OutputError, "output name 'a/b'"),
    ],
)
def test_bad_outputs_are_named(returned, kind, said):
    @simulator(prior=PRIOR)
    def model(mu, sigma):
        return returned

    with pytest.raises(kind, match=said):
        model(mu=0, sigma=1)


def test_a_block_of_another_length_is_refused():
    @simulator(prior=PRIOR, batched=True)
    def model(mu, sigma):
        return mu[:2]

    with pytest.raises(
        OutputError, match=r"'x' of a batched simulator must have shape \(3, \.\.\.\)"
    ):
        model.simulate_block(np.ones((3, 2)), np.random.default_rng(0))


def test_the_mask_of_a_ragged_output_has_a_name_of_its_own():
    model = simulator(prior=PRIOR, ragged=["t"])(lambda mu, sigma: {"t": [mu], "t_mask": sigma})
    with pytest.raises(OutputError, match="output 't_mask' has the name that training"):
        model(mu=0, sigma=1)


def test_outputs_and_parameters_are_copies():
    buffer, kept = np.zeros(2), []

    @simulator(prior=PRIOR)
    def reuses(theta):
        buffer[:] = theta
        kept.append(theta)
        theta *= 2
        return {"view": buffer, "theta": theta, "part": theta[:1]}

    given = np.array([1.0, 2.0])
    first = reuses.simulate(given, np.random.default_rng(0))
    reuses.simulate(np.array([5.0, 6.0]), np.random.default_rng(0))
    kept[0][:] = np.nan
    assert given.tolist() == [1.0, 2.0]
    assert {name: value.tolist() for name, value in first.items()} == {
        "view": [1.0, 2.0],
        "theta": [2.0, 4.0],
        "part": [2.0],
    }
    assert reuses.shared_arrays(np.array([[1.0, 2.0], [3, 4]]), np.random.default_rng(0)) == [
        f"{what}; sbiflow copies it"
        for what in (
            "output 'view' is a view of an array that the next simulation writes again",
            "output 'theta' is a view of the parameters",
            "output 'part' is a view of the parameters",
            "outputs 'part' and 'theta' are views of one array",
            "the model changes its parameters",
        )
    ]


def test_blocks_are_copies_too():
    buffer = np.zeros((4, 1))

    @simulator(prior=PRIOR, batched=True)
    def reuses(mu, sigma):
        buffer[: len(mu), 0] = mu
        mu += 1
        return {"view": buffer[: len(mu)], "mu": mu}

    theta = np.arange(4.0).reshape(2, 2)
    first = reuses.simulate_block(theta, np.random.default_rng(0))
    reuses.simulate_block(theta + 9, np.random.default_rng(0))
    assert theta.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert first["view"].tolist() == [[0.0], [2.0]]
    assert first["mu"].tolist() == [1.0, 3.0]
    shared = reuses.shared_arrays(np.arange(8.0).reshape(4, 2), np.random.default_rng(0))
    assert [one.partition(";")[0] for one in shared] == [
        "output 'view' is a view of an array that the next simulation writes again",
        "output 'mu' is a view of the parameters",
        "the model changes its parameters",
    ]


def test_blocks_are_for_batched_simulators():
    with pytest.raises(TypeError, match="gaussian is not batched"):
        gaussian.simulate_block(np.ones((3, 2)), np.random.default_rng(0))


def test_theta_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"theta must have shape \(2,\), got \(3,\)"):
        gaussian.simulate(np.ones(3), np.random.default_rng(0))


def test_ragged_outputs():
    @simulator(prior=PRIOR, ragged=["events"])
    def events(mu, sigma, rng):
        return {"events": rng.random(rng.poisson(5)), "total": mu}

    assert events.ragged == {"events"}
    lengths = {events(mu=0, sigma=1, seed=seed)["events"].shape[0] for seed in range(9)}
    assert len(lengths) > 1
    with pytest.raises(ValueError, match="batched simulator cannot have ragged"):
        simulator(prior=PRIOR, ragged=["events"], batched=True)(lambda mu, sigma: mu)
    with pytest.raises(OutputError, match="'event' is declared ragged but is no array"):
        simulator(prior=PRIOR, ragged=["event"])(lambda mu, sigma: {"events": mu})(mu=0, sigma=1)


def test_a_local_simulator_goes_through_cloudpickle():
    factor = 2.0

    @simulator(prior={"mu": Uniform(0, 1)})
    def local(mu):
        return np.array(factor * mu)

    again = pickle.loads(cloudpickle.dumps(local))
    assert again(mu=0.25)["x"] == 0.5
    assert again.identity() == local.identity()


def test_source_digest_follows_the_source(tmp_path):
    import simulators

    file = tmp_path / "model.py"
    text = "from simulators import simulator, Uniform\n@simulator(prior={'a': Uniform(0, 1)})\n"
    file.write_text(text + "def model(a): return a\n")
    first = simulators.load(f"{file}:model").source_digest()
    assert first == simulators.load(f"{file}:model").source_digest()
    file.write_text(text + "def model(a): return 2 * a\n")
    assert simulators.load(f"{file}:model").source_digest() != first
    assert len(Walk().source_digest()) == 64


def test_importing_the_package_needs_numpy_alone():
    code = (
        "import sys, simulators; simulators.load('two_moons').prior\n"
        "heavy = {'scipy', 'numba', 'torch', 'ray', 'zarr', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
