"""A wrong configuration is refused whole, with the key, the value and what is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import build, differences, override, read, save
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.stages import configure

MINIMAL = {"name": "a", "simulator": "two_moons", "budget": 100}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bugdet=3"], ["'bugdet'", "did you mean 'budget'"]),
        (["train.step=3"], ["'train.step'", "did you mean 'steps'"]),
        (["simulator.nam=x"], ["'simulator.nam'", "did you mean 'name'"]),
        (["budget=-5"], ["'budget'", "-5"]),
        (["budget=many"], ["'budget'", "many"]),
        (["budget=1.5"], ["'budget'", "1.5"]),
        (["train.learning_rate=[1]"], ["'train.learning_rate'"]),
        (["train.steps=10", "train.epochs=2"], ["steps=10", "epochs=2"]),
        (["evaluate.sampling_steps=0"], ["sampling_steps=0", ">= 1"]),
        (["max_failed=2"], ["'max_failed'", "2"]),
        (["seed.deep=1"], ["seed"]),
        (["no equals"], ["key=value"]),
        (["a..b=3"], ["key=value"]),
        (["budget=[1"], ["not valid YAML"]),
    ],
)
def test_a_wrong_word_names_the_key(words: list[str], expected: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        build(override({**MINIMAL, "seed": 0}, words))
    for text in expected:
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not valid YAML"),
        ("name: a\nname: b", "duplicate key"),
        ("- 1", "mapping"),
        ("name: \x00", "YAML"),
    ],
)
def test_a_corrupted_file_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected):
        read(path)


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1e-3\nb: 2e5\nc: x1e3\n")
    assert read(path) == {"a": 1e-3, "b": 2e5, "c": "x1e3"}


def test_a_name_stands_for_its_mapping() -> None:
    config = build(override(MINIMAL, ["simulator.arguments.a=1", "estimator=nsf"]))
    assert config.simulator.name == "two_moons"
    assert config.simulator.arguments == {"a": 1}
    assert config.estimator.name == "nsf"


def test_a_simulator_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    path = tmp_path / "c.yaml"
    path.write_text("name: a\nbudget: 1\nsimulator: model.py:f\n")
    assert build(read(path)).simulator.name == f"{tmp_path / 'model.py'}:f"


def test_a_saved_run_is_read_back_equal(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = build(override(MINIMAL, ["evaluate.sampling_steps=[2,10]", "prior.a.name=uniform"]))
    save(config, run)
    assert build(read(run.config)) == config


@pytest.fixture
def made(tmp_path: Path) -> tuple[RunDirectory, Path]:
    source = tmp_path / "c.yaml"
    source.write_text("name: a\nsimulator: two_moons\nbudget: 100\n")
    run = RunDirectory(tmp_path / "run")
    save(configure(run, source), run)
    return run, source


@pytest.mark.parametrize(
    "words",
    [[], ["budget=200"], ["test=7"], ["train.steps=7"], ["simulate.workers=1"], ["estimator=nsf"]],
)
def test_growth_and_deliberate_changes_continue_a_run(
    made: tuple[RunDirectory, Path], words: list[str]
) -> None:
    run, source = made
    assert differences(configure(run, None, words), configure(run, source, words)) == {}


@pytest.mark.parametrize(
    "words", [["seed=3"], ["simulator=slcp"], ["simulate.block=7"], ["name=b"]]
)
def test_what_identifies_the_simulations_never_changes(
    made: tuple[RunDirectory, Path], words: list[str]
) -> None:
    run, _ = made
    with pytest.raises(UsageError, match="another configuration") as error:
        configure(run, None, words)
    assert words[0].split("=")[0] in str(error.value)


def test_a_silent_change_of_training_is_refused_with_a_diff(
    made: tuple[RunDirectory, Path],
) -> None:
    run, source = made
    source.write_text(source.read_text() + "train: {batch_size: 7}\n")
    with pytest.raises(UsageError, match=r"train\.batch_size: 64 -> 7"):
        configure(run, source)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("simulator=two_mons", "two_moons"),
        ("estimator=cmpee", "cmpe"),
        ("evaluate.metrics=[c2stt]", "c2st"),
        ("cluster.backend=locl", "local"),
    ],
)
def test_an_unknown_name_is_met_with_a_close_one(tmp_path: Path, word: str, expected: str) -> None:
    source = tmp_path / "c.yaml"
    source.write_text("name: a\nsimulator: two_moons\nbudget: 100\n")
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UsageError, match=f"did you mean '{expected}'"):
        configure(run, source, [word])
    assert not run.path.exists()


def test_weights_without_quantiles_are_refused_before_anything_is_simulated(tmp_path: Path) -> None:
    source = tmp_path / "c.yaml"
    normal = "name: multivariate_normal, mean: [0, 0], covariance: [[1, 0], [0, 1]]"
    box = f"{{{normal}, names: [theta_1, theta_2], low: [-1, -1]}}"
    source.write_text(f"name: a\nsimulator: two_moons\nprior: {box}\nbudget: 100\n")
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UsageError, match=r"prior_weights=true needs a prior with quantiles"):
        configure(run, source, ["train.prior_weights=true"])
    assert not run.path.exists()
    assert configure(run, source).train.prior_weights is None


def test_an_estimator_of_a_former_version_is_taken_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="CMPEPaper"):
        config = configure(RunDirectory(tmp_path), MINIMAL, ["estimator.name=cmpe_paper"])
    assert config.estimator.name == "cmpe_paper"  # the digest of a run made before stays


@pytest.mark.parametrize(
    "text", ["{[1]: 2}", "&a [*a]", "1" * 5000, "{2020-01-01: 1}", "[" * 5000, "'\0'"]
)
def test_odd_yaml_is_one_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(f"name: a\nsimulator: two_moons\nbudget: 1\nprior: {text}\n")
    with pytest.raises(UsageError, match=r"odd\.yaml is not valid YAML"):
        read(file)
    with pytest.raises(UsageError, match="is not valid YAML"):
        override({}, [f"prior={text}"])


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "../a", "/a", "a/../../b"])
def test_a_name_is_plain(name: str) -> None:
    with pytest.raises(UsageError, match="valid are printable characters"):
        build({"name": name, "simulator": "two_moons", "budget": 1})
