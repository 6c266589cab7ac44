"""Former names of configuration keys are taken with a warning; a run made with them is the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import build, override, resolve, text
from pipeline.errors import UsageError
from pipeline.evaluate.stage import evaluate
from pipeline.files import write_document
from pipeline.results import METRICS, Results, latest_training
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.train.setup import Training

BASE = {"name": "a", "simulator": "two_moons", "budget": 100}
FORMER = {
    "estimator": {
        "name": "cmpe_distilled",
        "arguments": {"gain": 6.0},
        "only": {"cmpe_distilled": {"teaching": 0.4}, "fmpe": {"steps": 7}},
    },
    "evaluate": {"passes": [10, 2]},
}
PRESENT = {
    "estimator": {
        "name": "cmpe_distilled",
        "arguments": {"input_scale": 6.0},
        "only": {"cmpe_distilled": {"teacher_fraction": 0.4}, "fmpe": {"sampling_steps": 7}},
    },
    "evaluate": {"sampling_steps": [10, 2]},
}


def test_former_names_make_the_same_configuration() -> None:
    with pytest.warns(DeprecationWarning, match="its name is now") as caught:
        config = build({**BASE, **FORMER})
    assert config == build({**BASE, **PRESENT})
    told = " ".join(str(one.message) for one in caught)
    for new in ("input_scale", "teacher_fraction", "sampling_steps", "evaluate.sampling_steps"):
        assert f"'{new}'" in told


def test_a_run_made_with_former_names_opens_with_either(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(text({**build(BASE).plain(), **FORMER}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its own file is not the user's doing
        saved = resolve(run)
        assert resolve(run, {**BASE, **PRESENT}) == saved
    assert resolve(run, {**BASE, **FORMER}) == saved
    with pytest.raises(UsageError, match=r"estimator\.arguments\.input_scale: 6\.0 -> 5\.0"):
        resolve(
            run,
            {**BASE, **FORMER, "estimator": {**FORMER["estimator"], "arguments": {"gain": 5.0}}},
        )


@pytest.mark.parametrize(
    ("word", "place", "value"),
    [
        ("evaluate.passes=3", ("evaluate", "sampling_steps"), 3),
        ("estimator.arguments.gain=5.0", ("estimator", "arguments", "input_scale"), 5.0),
        ("estimator.only.fmpe.steps=9", ("estimator", "only", "fmpe", "sampling_steps"), 9),
    ],
)
@pytest.mark.parametrize("values", [FORMER, PRESENT])
def test_a_word_in_a_former_name_overrides_either(
    tmp_path: Path, values: dict[str, Any], word: str, place: tuple[str, ...], value: Any
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(text({**build(BASE).plain(), **values}))
    found: Any = resolve(run, None, [word]).plain()
    for key in place:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    "values",
    [
        {"evaluate": {"passes": 2, "sampling_steps": 2}},
        {"estimator": {"name": "fmpe", "arguments": {"gain": 3.0, "input_scale": 2.0}}},
    ],
)
def test_both_names_at_once_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="former name"):
        build(override(BASE, []) | values)


def test_an_estimator_that_is_not_installed_keeps_its_arguments() -> None:
    config = build({**BASE, "estimator": {"name": "gone:Gone", "arguments": {"gain": 1.0}}})
    assert config.estimator.arguments == {"gain": 1.0}


def test_the_command_line_warns_once(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text({**BASE, **FORMER}))
    command = [sys.executable, "-m", "pipeline", "plan", "-c", "c.yaml", "-o", "run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in result.stderr.splitlines() if "passes" in line]
    assert lines == [
        "warning: 'evaluate.passes' is deprecated: its name is now 'evaluate.sampling_steps'"
    ]


def test_a_training_made_with_former_names_is_found_done(finished: Any) -> None:
    old = finished.configure("estimator.arguments.gain=1.0")
    new = finished.configure("estimator.arguments.input_scale=1.0")
    assert Training(old, finished.run).key == Training(new, finished.run).key


def test_an_evaluation_of_an_earlier_version_is_read(evaluated: Any) -> None:
    results = Results(evaluated.run, latest_training(evaluated.run))
    path = results.folder / METRICS
    today = results.evaluated()
    former = json.loads(path.read_text().replace('"sampling_steps"', '"passes"'))
    former.pop("checksum")
    write_document(path, former)
    assert '"passes"' in path.read_text()
    assert results.evaluated() == today
    before = path.read_bytes()
    evaluate(evaluated.config, evaluated.run, stop=Stop())  # finds it done
    assert path.read_bytes() == before
