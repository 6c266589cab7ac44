"""Simulators by name: built in, from a file, from a package."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

import simulators
from simulators import Uniform
from simulators.registry import BUILT_IN

MODEL = """
from simulators import simulator, Uniform, LogUniform

@simulator(prior={"mu": Uniform(-3, 3), "sigma": LogUniform(0.1, 2)})
def my_model(mu, sigma, rng, points=10):
    return {"x": rng.normal(mu, sigma, points)}

@simulator(prior={"mu": Uniform(-3, 3)})
class Model:
    def simulate(self, mu, rng):
        return mu + rng.random(2)

def undecorated(mu, rng):
    return mu
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_is_sorted_and_every_entry_loads():
    assert list(BUILT_IN) == sorted(BUILT_IN)
    assert set(BUILT_IN) <= set(simulators.available())
    for name in BUILT_IN:
        if name not in (
            "imported",
            "program",
            "fashion_denoising",
            "fashion_images",
        ):  # which need arguments or a data set
            assert simulators.load(name).name == name


def test_a_file_as_in_the_readme(folder):
    x = simulators.load("my_model.py:my_model")(mu=0.5, sigma=1.0, seed=3)
    np.testing.assert_array_equal(x["x"], np.random.default_rng(3).normal(0.5, 1.0, 10))


def test_the_name_of_a_file_does_not_depend_on_where_it_is(folder):
    near = simulators.load("my_model.py:my_model")
    far = simulators.load(f"{folder}/my_model.py:my_model")
    assert near.name == "my_model.py:my_model"
    assert near.identity() == far.identity()


def test_an_edited_file_is_read_again(folder):
    assert simulators.load("my_model.py:my_model").arguments == {"points": 10}
    (folder / "my_model.py").write_text(MODEL.replace("points=10", "points=3"))
    assert simulators.load("my_model.py:my_model").arguments == {"points": 3}


def test_arguments_and_prior_are_replaced(folder):
    spec = {"mu": {"name": "uniform", "low": 0, "high": 1}, "sigma": Uniform(1, 2)}
    made = simulators.load("my_model.py:my_model", prior=spec, points=2)
    assert made(mu=0, sigma=1)["x"].shape == (2,)
    assert made.prior.low.tolist() == [0, 1]
    assert simulators.load("my_model.py:my_model").prior.low.tolist() == [-3, 0.1]


def test_a_parameter_may_become_an_argument(folder):
    made = simulators.load("my_model.py:my_model", prior={"mu": Uniform(0, 1)}, sigma=0.0)
    assert made.prior.names == ("mu",)
    np.testing.assert_array_equal(made(mu=2)["x"], np.full(10, 2.0))


def test_a_class_in_a_file(folder):
    assert simulators.load("my_model.py:Model")(mu=1)["x"].shape == (2,)


def test_a_package_attribute():
    made = simulators.load("simulators.two_moons:two_moons")
    assert made.name == "simulators.two_moons:two_moons"
    assert made.prior == simulators.load("two_moons").prior


def test_another_prior_drops_the_reference():
    prior = {"theta_1": Uniform(-2, 2), "theta_2": Uniform(-2, 2)}
    assert not simulators.load("two_moons", prior=prior).references
    assert list(simulators.load("two_moons").references) == ["exact", "untruncated"]


def test_a_simulator_from_a_file_is_pickled_to_another_process(folder, tmp_path):
    made = simulators.load("my_model.py:my_model", prior=None, points=4)
    (tmp_path / "sub").mkdir()
    code = (
        "import pickle, sys; s = pickle.loads(sys.stdin.buffer.read());"
        "print(s.identity(), s(mu=0.0, sigma=1.0, seed=1)['x'].tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(made),
        capture_output=True,
        check=True,
        cwd=tmp_path / "sub",
        env={"PYTHONPATH": str(simulators.__path__[0]) + "/.."},
        timeout=60,
    )
    expected = f"{made.identity()} {made(mu=0.0, sigma=1.0, seed=1)['x'].tolist()}\n"
    assert run.stdout.decode() == expected


def test_a_ready_made_simulator_in_a_module(folder):
    text = (
        "from simulators import Simulator, Uniform\n"
        "def model(a): return a\n"
        "ready = Simulator(model, {'a': Uniform(0, 1)}, name='ready')\n"
    )
    (folder / "ready.py").write_text(text)
    made = simulators.load("ready.py:ready")
    assert pickle.loads(pickle.dumps(made)).identity() == made.identity()
    with pytest.raises(TypeError, match="ready-made"):
        simulators.load("ready.py:ready", points=3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two_mons", r"unknown simulator 'two_mons'; did you mean 'two_moons'\?.*gaussian_linear"),
        ("no_such_file.py:model", "no_such_file.py' cannot be read: No such file"),
        ("my_model.py:my_modle", "nothing is called 'my_modle' there; did you mean 'my_model'"),
        ("no_such_package.sub:model", "no module 'no_such_package'"),
        ("simulators.two_moons:moons", "nothing is called 'moons'"),
    ],
)
def test_an_unknown_name_says_what_is_close(folder, name, said):
    with pytest.raises(LookupError, match=said):
        simulators.load(name)


def test_a_file_that_fails_says_why(folder):
    (folder / "broken.py").write_text("import numpy\n1 / 0\n")
    with pytest.raises(ValueError, match=r"broken.py' cannot be run: ZeroDivisionError"):
        simulators.load("broken.py:model")


def test_what_is_no_simulator_gets_a_hint(folder):
    with pytest.raises(TypeError, match=r"my_model.py:undecorated is not a simulator.*@simulator"):
        simulators.load("my_model.py:undecorated")
    with pytest.raises(TypeError, match="name must be text, got 3"):
        simulators.load(3)


def test_an_unknown_argument_names_the_valid_ones():
    with pytest.raises(TypeError, match=r"two_moons has no argument 'sigma' \(valid: none\)"):
        simulators.load("two_moons", sigma=1)
    with pytest.raises(
        TypeError, match=r"gaussian_linear has no argument 'dims'; did you mean 'dim'"
    ):
        simulators.load("gaussian_linear", dims=1)
    with pytest.raises(ValueError, match="dim must be a whole number >= 1, got 0"):
        simulators.load("gaussian_linear", dim=0)
