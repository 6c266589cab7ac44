"""What would fail after hours is found before: each wrong thing gives a problem, and none ends the check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config as configuration
from pipeline.config import Config, build, override
from pipeline.errors import UsageError
from pipeline.plan.check import check
from pipeline.plan.requirements import problems, require
from pipeline.run import RunDirectory
from pipeline.simulate.leases.stage import simulate as share
from pipeline.stages import configure
from pipeline.stages import run as run_stages
from pipeline.stop import Stop
from pipeline.store import Store
from simulators.testing import check_simulator

MODELS = '''
import ctypes, os, sys, time
import numpy as np
from simulators import Distribution, Independent, Prior, Uniform, simulator

PRIOR = {"a": Uniform(0, 1), "b": Uniform(0, 1)}

@simulator(prior=PRIOR)
def good(a, b, rng):
    return {"x": a + rng.random(3)}

@simulator(prior=PRIOR)
def leaves(a, b, rng):
    sys.exit(3)

@simulator(prior=PRIOR)
def vanishes(a, b, rng):
    os._exit(3)

@simulator(prior=PRIOR)
def crashes(a, b, rng):
    ctypes.string_at(0)

@simulator(prior=PRIOR)
def hangs(a, b, rng):
    ctypes.PyDLL(None).sleep(1000)  # in C, with the GIL

@simulator(prior=PRIOR, ragged=["t"])
def masks(a, b, rng):
    return {"t": rng.random(3), "t_mask": a}

@simulator(prior=PRIOR)
def renames(a, b, rng):
    return {"x": a} if a < 0.99 else {"y": a}

@simulator(prior=PRIOR)
def reshapes(a, b, rng):
    return rng.random(3 if a < 0.99 or b > 0.01 else 2)

@simulator(prior=PRIOR)
def retypes(a, b, rng):
    return {"x": rng.random(2).astype("f4" if b > 0.99 else "f8")}

@simulator(prior=PRIOR)
def nan(a, b, rng):
    return {"x": np.full(2, np.nan)}

@simulator(prior=PRIOR)
def edgy(a, b, rng):
    if a > 0.99:
        raise ValueError("too steep")
    return {"x": a + rng.random(3)}

@simulator(prior=PRIOR)
def huge(a, b, rng):
    return {"x": np.array([1e300, a])}

@simulator(prior=PRIOR)
def other(a, b, rng):
    return {"x": a + np.random.random(3)}

@simulator(prior=PRIOR)
def slow(a, b, rng):
    with open(__file__ + ".calls", "a") as log:
        log.write("x")
    time.sleep(0.3)
    return a + rng.random(2)

@simulator(prior=PRIOR, batched=True)
def many(a, b, rng):
    return a[:, None] + rng.random((len(a), 3))


class Ring(Prior):
    """Uniform angle and radius: a class that nobody else knows."""
    names, low, high = ("a", "b"), np.array([-2.0, -2.0]), np.array([2.0, 2.0])

    def sample(self, rng, n):
        angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(1, 2, n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)

    def log_prob(self, theta):
        return -np.log(2 * np.pi * np.hypot(*np.asarray(theta).T))

    def spec(self):
        return {"name": "ring", "radii": [1, 2]}


@simulator(prior=Ring())
def ring(a, b, rng):
    return {"x": np.array([a, b]) + 0.1 * rng.normal(size=2)}


class Squared(Independent):
    """A class that says the JSON form of another one."""
    def sample(self, rng, n):
        return super().sample(rng, n) ** 2


@simulator(prior=Squared(PRIOR))
def squared(a, b, rng):
    return {"x": np.array([a, b]) + 0.1 * rng.normal(size=2)}


class Odd(Ring):
    def __reduce__(self):
        raise TypeError

    def spec(self):
        return {"name": "odd", "number": id(self)}


class Made:
    def __init__(self):
        self.prior = Odd()

    def simulate(self, a, b, rng):
        return rng.random(2)


made = simulator()(Made)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODELS)
    (folder / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "metric.py").write_text("def wants(theta, colour): return 0.0\n")
    return folder


def config(folder: Path, model: str, *words: str) -> Config:
    values = {"name": "a", "simulator": f"{folder}/models.py:{model}", "budget": 300, "test": 10}
    small = ["estimator.name=nsf", "estimator.arguments.hidden=[8]", "evaluate.sampling_steps=2"]
    return build(override(values, [*small, *words]))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("leaves", "SystemExit: 3"),
        ("vanishes", "exit code 3"),
        ("crashes", "Segmentation fault"),
        ("hangs", "gave no result within 1.0s"),
        ("masks", "'t_mask' has the name"),
        ("renames", "outputs are ['y'], in other simulations ['x']"),
        ("reshapes", "(2,), in other simulations float64 (3,)"),
        ("retypes", "is float32 (2,), in other simulations float64"),
        ("nan", "NaN or Inf in x at a="),
        ("huge", "what float32 cannot hold"),
        ("other", "the same seed gave different outputs"),
        ("made", "a prior of a class of your own"),
    ],
)
def test_a_simulator_that_cannot_be_used_is_a_problem(
    folder: Path, model: str, expected: str
) -> None:
    found = check(config(folder, model, "simulate.timeout=1"))
    assert expected in "; ".join(found.problems)


@pytest.mark.parametrize("model", ["good", "many", "ring", "squared"])
def test_a_good_simulator_has_no_problems(folder: Path, model: str) -> None:
    found = check(config(folder, model))
    assert found.problems == ()
    assert found.notes == ()
    assert found.deterministic
    assert found.probe is not None
    assert found.probe.outputs["x"][0] == "float64"


def test_failures_at_the_edge_of_the_prior_are_told(folder: Path) -> None:
    found = check(config(folder, "edgy"))
    assert found.problems == ()
    assert "edge of the prior: failed: ValueError: too steep" in found.notes[0]


def test_a_slow_simulator_is_run_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.simulate.trial.ENOUGH", 0.2)
    found = check(config(folder, "slow"))
    assert found.problems == ()
    assert found.deterministic is None
    assert (folder / "models.py.calls").read_text() == "x"


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    words = [
        "evaluate.metrics=[c2st,nothing]",
        "evaluate.reference=exact",
        "cluster.backend=cloud",
        "train.batch_size=1000",
        "track.uri=mlruns",
        "estimator.arguments.summary=cnm",
        "estimator.preprocessing=log",
    ]
    found = "; ".join(check(config(folder, "leaves", *words)).problems)
    for part in ("'nothing'", "'exact'", "'cloud'", "batch_size=1000", "mlruns", "'cnm'", "'log'"):
        assert part in found, part
    assert "SystemExit" in found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["estimator.name=nsff"], "did you mean 'nsf'"),
        (["estimator.name=absent_models:NSF"], "no module named 'absent_models'"),
        (["estimator.arguments.hiden=3"], "did you mean 'hidden'"),
        (["estimator.arguments.summary=cnm"], "did you mean 'cnn'"),
        (["estimator.arguments.summary=cnn", "estimator.arguments.summary_arguments.depht=3"], "depht"),
        (["evaluate.metrics=[models:distance]"], "cannot load models:distance"),
        (["evaluate.reference=exact"], "no reference posterior"),
        (["evaluate.metrics=[c2s]"], "did you mean 'c2st'"),
        (["simulator={folder}/exits.py:f"], "its file ends the process, with exit code 3"),
        (["train.prior_weights=true", "simulator={folder}/models.py:ring"], "needs a prior with quantiles"),
        (["design=sobol", "simulator={folder}/models.py:ring"], "needs a prior with quantiles"),
    ],
)  # fmt: skip
def test_names_are_refused_before_anything_runs(
    folder: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    words = [word.format(folder=folder) for word in words]
    with pytest.raises(UsageError) as error:
        require(config(folder, "good", *words))
    assert expected in str(error.value)
    with pytest.raises(UsageError) as error:
        configure(RunDirectory(tmp_path / "run"), config(folder, "good").plain(), words)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.batch_size=1000"], "more than the 28"),
        (["train.batch_size=33", "train.workers=2"], "use a multiple"),
        (["train.validation=0.001"], "at least 2 are needed"),
        (["test=0"], "nothing to evaluate"),
    ],
)
def test_numbers_that_no_stage_can_use_end_a_run_in_its_first_second(
    folder: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    asked = config(folder, "good", *words)
    assert problems(asked, stages=False) == []
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UsageError, match=expected), run.lock():
        run_stages(asked, run, Stop())
    assert not run.path.exists()


def test_the_first_outputs_are_looked_at_before_they_are_kept(folder: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    def refuse(simulation: Any, rows: Any) -> None:
        seen.append((len(rows), sorted(rows.x)))
        raise UsageError("not these")

    run = RunDirectory(tmp_path)
    with pytest.raises(UsageError, match="not these"):
        share(config(folder, "good"), run, stop=Stop(), approve=refuse)
    assert seen == [(1, ["x"])]
    assert Store.open(run.store("train")).counts()["done"] == 0


def test_a_mask_beside_a_ragged_output_is_refused_before_a_row_is_kept(
    folder: Path, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(UsageError, match="'t_mask' has the name"):
        share(config(folder, "masks"), run, stop=Stop())
    assert Store.open(run.store("train")).counts()["done"] == 0


@pytest.mark.parametrize("model", ["ring", "squared"])
def test_a_prior_of_a_class_of_its_own_is_that_of_every_process(
    folder: Path, tmp_path: Path, model: str
) -> None:
    from pipeline.config import simulator_of
    from pipeline.train.setup import Training

    asked, run = config(folder, model, "budget=200", "simulate.workers=1"), RunDirectory(tmp_path)
    share(asked, run, stop=Stop())
    prior = simulator_of(asked).prior
    check_simulator(simulator_of(asked))
    store = Store.open(run.store("train"))
    from pipeline.simulate.seed import generators

    first = prior.sample(generators(0, 0, 0)[0], 1)
    np.testing.assert_array_equal(store.rows(np.array([0])).theta, first)
    assert type(Training(asked, run).prior) is type(prior)


def test_the_command_survives_its_simulator(folder: Path, tmp_path: Path) -> None:
    values = config(folder, "vanishes").plain()
    path = tmp_path / "c.yaml"
    path.write_text(configuration.text(values))
    command = [sys.executable, "-m", "pipeline", "check", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "exit code 3" in json.loads(done.stdout)["problems"][0]
    exits = f"simulator={folder}/exits.py:f"
    done = subprocess.run([*command, exits], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "its file ends the process" in done.stderr
