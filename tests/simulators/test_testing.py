"""The contract suite itself: it passes good simulators, names what bad ones break, takes plug-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simulators
from simulators import Independent, Simulator, Uniform, simulator
from simulators.testing import check_simulator

PRIOR = {"mu": Uniform(-3, 3)}
SHARED = np.zeros(3)
COUNT = [0]


class Narrow(Independent):
    """A prior whose draws leave its bounds."""

    def sample(self, rng, n):
        return 2 * super().sample(rng, n)


@simulator(prior=PRIOR)
def good(mu, rng):
    return {"x": rng.normal(mu, 1.0, 3), "n": np.int64(3)}


@simulator(prior=PRIOR, ragged=["x"])
def ragged(mu, rng):
    return {"x": rng.random((1 + rng.integers(5), 2))}


@simulator(prior=PRIOR)
def grows(mu, rng):
    return rng.random(1 + rng.integers(5))


@simulator(prior=PRIOR)
def undefined(mu, rng):
    return np.log(mu) + rng.random()


@simulator(prior=PRIOR)
def own_noise(mu):
    return np.array(mu + np.random.random())


@simulator(prior=PRIOR)
def counts(mu, rng):
    COUNT[0] += 1
    return np.array([COUNT[0], rng.random()])


@simulator(prior=PRIOR)
def fixed_seed(mu):
    return mu + np.random.default_rng(0).random(3)


@simulator(prior=PRIOR)
def reuses_a_buffer(mu, rng):
    SHARED[:] = rng.normal(mu, 1.0, 3)
    return SHARED


@simulator(prior=PRIOR)
def changes_theta(theta, rng):
    theta += 1
    return theta + rng.random()


@simulator(prior=PRIOR, references={"flat": lambda x, n, rng: rng.random(n)})
def flat_reference(mu, rng):
    return rng.normal(mu, 1.0, 3)


@simulator(prior=Narrow({"mu": Uniform(1, 2)}))
def leaves_its_bounds(mu, rng):
    return rng.normal(mu)


@pytest.mark.parametrize("fine", [good, ragged], ids=lambda s: s.name)
def test_good_simulators_pass(fine):
    check_simulator(fine)


@pytest.mark.parametrize(
    ("bad", "law"),
    [
        (grows, "outputs_have_one_form"),
        (undefined, "outputs_are_finite"),
        (own_noise, "equal_seeds_give_equal_outputs"),
        (counts, "equal_seeds_give_equal_outputs"),
        (fixed_seed, "other_seeds_give_other_outputs"),
        (reuses_a_buffer, "arrays_are_not_shared"),
        (changes_theta, "arrays_are_not_shared|equal_seeds_give_equal_outputs"),
        (flat_reference, "references_are_draws"),
        (leaves_its_bounds, "prior_draws_are_in_bounds"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_bad_simulator_breaks_its_law(bad, law):
    with pytest.raises(AssertionError, match=f"{bad.name} breaks ({law})"):
        check_simulator(bad)


def test_a_simulator_that_cannot_be_pickled_is_told():
    local = Simulator(lambda mu, rng: rng.normal(mu), PRIOR, name="local")
    with pytest.raises(Exception, match="pickle"):
        check_simulator(local)


def test_a_deterministic_simulator_is_declared():
    check_simulator(fixed_seed, deterministic=True)
    with pytest.raises(AssertionError, match="declared deterministic"):
        check_simulator(good, deterministic=True)


def test_a_program_passes():
    script = 'echo "[{mu}, {seed}]" > output.json'
    program = simulators.load(
        "program", command=["sh", "-c", script], prior=PRIOR, output="output.json"
    )
    check_simulator(program, n=2, timeout=30)


PLUG_IN = """
from simulators import simulator, Normal

@simulator(prior={"rate": Normal(0, 1)}, version="7", batched=True)
def decay(rate, rng, points=4):
    return rate[:, None] + rng.standard_normal((len(rate), points))
"""


@pytest.fixture
def site(tmp_path):
    """A folder as a package manager leaves it: a package and its metadata with an entry point."""
    (tmp_path / "radio_lab").mkdir()
    (tmp_path / "radio_lab" / "__init__.py").write_text("")
    (tmp_path / "radio_lab" / "decay.py").write_text(PLUG_IN)
    info = tmp_path / "radio_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: radio-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sbiflow.simulators]\nradio_decay = radio_lab.decay:decay\n"
        "radio_lost = radio_lab.lost:lost\n"
    )
    return tmp_path


def test_a_plug_in_needs_no_fork(site):
    """An installed package brings a simulator by its entry point, and passes the contract."""
    code = """
import simulators
from simulators.testing import check_simulator
assert "radio_decay" in simulators.available()
made = simulators.load("radio_decay", points=6)
assert made.identity()["name"] == "radio_decay", made.identity()
assert made.identity()["version"] == "7"
assert made(rate=0.5, seed=1)["x"].shape == (6,)
assert simulators.load("radio_lab.decay:decay").name == "radio_lab.decay:decay"
check_simulator(made)
for name, said in (("radio_deacy", "did you mean 'radio_decay'"), ("radio_lost", "radio_lab.lost")):
    try:
        simulators.load(name)
    except LookupError as error:
        assert said in str(error), error
    else:
        raise AssertionError(name)
"""
    root = Path(simulators.__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{root}:{site}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
