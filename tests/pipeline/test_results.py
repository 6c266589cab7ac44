"""Damage to what decides or states a result: noticed, said, and made anew with the same result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.journal import Journal
from pipeline import config as configuration
from pipeline import stages
from pipeline.errors import DamagedError, PipelineError
from pipeline.evaluate.stage import evaluate
from pipeline.files import read_document, read_text
from pipeline.infer.sample import sample
from pipeline.report.contents import RunContents
from pipeline.report.stage import report
from pipeline.results import BELONGS, latest_training
from pipeline.run import RunDirectory
from pipeline.show import status_values
from pipeline.stop import Stop
from pipeline.track.history import History
from tests.pipeline.conftest import SIMULATOR, simulate

TRAINED = ["config.yml", "done.json", "curves.json", "posterior/posterior.json"]
TRAINED += ["posterior/weights.pt", "evaluation/metrics.json", "evaluation/draws.npz"]
SHARED = ["config.yml", "latest.json", "references/exact"]
FILES = [*SHARED, *(f"trainings/KEY/{name}" for name in TRAINED)]


def words(run: RunDirectory, *changes: str) -> configuration.Config:
    return configuration.resolve(run, None, changes)


def repeat(run: RunDirectory, *changes: str) -> Any:
    """Train and evaluate as the command does; return the numbers without times."""
    config = words(run, *changes)
    stages.train(config, run, Stop())
    result = stages.evaluate(config, run, Stop())
    return {
        key: value for key, value in result.items() if key not in ("seconds", "draws", "format")
    }


def sampled(run: RunDirectory, out: Path) -> np.ndarray:
    sample(run, {"x": np.array([0.3, -0.4])}, 5, None, 0, out / "draws.npz")
    with np.load(out / "draws.npz") as file:
        return np.array(file["theta"])


@dataclass(frozen=True)
class Known:
    """A run with two finished trainings, and what it reports of the second."""

    path: Path
    older: Path  # as it was after the first
    key: str
    other: str
    result: dict[str, Any]
    draws: np.ndarray

    def weights(self, run: RunDirectory) -> str:
        content = (run.training(self.key) / "posterior" / "weights.pt").read_bytes()
        return hashlib.sha256(content).hexdigest()

    def file(self, path: Path, name: str, other: bool = False) -> Path:
        """Return a file of a copy, or its counterpart of the other training."""
        if name == "references/exact":
            seeds = {str(np.load(f)["description"])[-2]: f for f in path.glob("references/*.npz")}
            return seeds["1" if other else "0"]
        return path / name.replace("KEY", self.other if other else self.key)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    folder = tmp_path_factory.mktemp("known")
    (folder / "gaussian.py").write_text(SIMULATOR)
    config = configuration.build(
        {
            "name": "tiny",
            "simulator": f"{folder / 'gaussian.py'}:gaussian",
            "budget": 80,
            "test": 8,
            "max_failed": 0.9,
            "estimator": {"name": "cmpe", "arguments": {"width": 8, "depth": 1}},
            "train": {"steps": 4, "batch_size": 16},
            "evaluate": {"draws": 10, "sampling_steps": 2, "metrics": ["mmd", "rmse"], "seed": 1},
        }
    )
    run = RunDirectory(folder / "run")
    stages.begin(config, run, "simulate")({"event": "start"})
    simulate(config, run)
    repeat(run)
    other = latest_training(run)
    shutil.copytree(run.path, folder / "older")
    result = repeat(run, "train.steps=5", "evaluate.seed=0")
    draws = sampled(run, folder)
    assert latest_training(run) != other
    return Known(run.path, folder / "older", latest_training(run), other, result, draws)


@pytest.fixture
def run(known: Known, tmp_path: Path) -> RunDirectory:
    shutil.copytree(known.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "first byte": lambda path: flip(path, 0),
    "byte in the middle": lambda path: flip(path, 0.5),
    "byte near the end": lambda path: flip(path, 0.93),
    "last byte": lambda path: flip(path, 1),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", ["byte in the middle", "gone"])
@pytest.mark.parametrize("name", ["done.json", "curves.json"])
def test_what_the_journal_repeats_is_written_anew_without_training(
    known: Known, run: RunDirectory, tmp_path: Path, capsys: Any, name: str, damage: str
) -> None:
    told = [record.points for record in History(run, tmp_path).records()]
    weights = run.training(known.key) / "posterior/weights.pt"
    trained = weights.stat().st_mtime_ns
    for key in (known.key, known.other):
        path = run.training(key) / name
        whole = path.read_bytes()
        DAMAGES[damage](path)
        if key == known.key:
            assert repeat(run) == known.result
        else:
            assert [record.points for record in History(run, tmp_path).records()] == told
        assert path.read_bytes() == whole
        assert f"{path} " in (said := capsys.readouterr().err)
        assert "written anew from the journal" in said
    assert weights.stat().st_mtime_ns == trained


def test_without_a_sound_posterior_the_training_is_repeated(
    known: Known, run: RunDirectory, capsys: Any
) -> None:
    flip(run.training(known.key) / "done.json", 0.5)
    flip(run.training(known.key) / "posterior/weights.pt", 0.5)
    assert repeat(run) == known.result
    assert "trains anew" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [*DAMAGES, "another's"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_said_and_mended_and_changes_no_result(
    known: Known, run: RunDirectory, tmp_path: Path, capsys: Any, name: str, damage: str
) -> None:
    path = known.file(run.path, name)
    if damage == "another's":
        shared = known.older if name in ("config.yml", "latest.json") else run.path
        shutil.copy(known.file(shared, name, other=True), path)
    else:
        DAMAGES[damage](path)

    RunContents(run).lead  # noqa: B018  reads what a report tells
    status_values(configuration.load(run), run)
    for command in (lambda: sampled(run, tmp_path), lambda: evaluate(words(run), run, stop=Stop())):
        try:
            command()
        except DamagedError as error:
            clear = "`sbiflow train -o" in str(error) and path.name in str(error)
            assert clear, error  # noqa: PT017
    try:
        assert np.array_equal(sampled(run, tmp_path), known.draws)
    except DamagedError:
        assert "posterior" in name

    assert repeat(run) == known.result
    assert known.weights(run) == known.result["settings"]["weights"]
    assert np.array_equal(sampled(run, tmp_path), known.draws)
    assert read_document(run.training(known.key) / "done.json")["key"] == known.key
    said = capsys.readouterr().err
    silent = damage == "gone" and name.endswith(("KEY/config.yml", "metrics.json"))
    if not name.startswith("references") and not silent:  # nobody reads them when all is measured
        assert path.name in said
    capsys.readouterr()
    assert repeat(run) == known.result
    assert path.name not in capsys.readouterr().err  # it is mended


@pytest.mark.parametrize("damage", [*DAMAGES, "another's"])
def test_damaged_references_and_kept_draws_are_drawn_anew(
    known: Known, run: RunDirectory, capsys: Any, damage: str
) -> None:
    evaluation = run.training(known.key) / "evaluation"
    (evaluation / "metrics.json").unlink()
    reference = known.file(run.path, "references/exact")
    if damage == "another's":
        shutil.copy(known.file(run.path, "references/exact", other=True), reference)
    else:
        DAMAGES[damage](reference)
    assert repeat(run) == known.result
    assert (f"{reference.name} " in capsys.readouterr().err) == (damage != "gone")


def test_draws_that_a_stopped_evaluation_kept_are_checked(known: Known, run: RunDirectory) -> None:
    folder = run.training(known.key) / "evaluation"
    shutil.rmtree(folder)
    kept = folder / "blocks" / "drawn_2_0.npz"

    class StopWhenThere(Stop):
        @property
        def requested(self) -> bool:
            return kept.exists()

    with pytest.raises(PipelineError, match="stopped"):
        stages.evaluate(words(run), run, StopWhenThere())
    flip(kept, 0.5)
    assert repeat(run) == known.result


def test_a_posterior_of_another_training_is_not_taken_for_this_one(
    known: Known, run: RunDirectory, tmp_path: Path
) -> None:
    ours, other = (run.training(key) / "posterior" for key in (known.key, known.other))
    shutil.rmtree(ours)
    shutil.copytree(other, ours)
    with pytest.raises(
        DamagedError, match=rf"not of this training, but of {known.other}.*train -o"
    ):
        sampled(run, tmp_path)
    assert repeat(run) == known.result
    assert np.array_equal(sampled(run, tmp_path), known.draws)


def test_the_report_names_what_is_damaged_and_shows_the_rest(
    known: Known, run: RunDirectory
) -> None:
    flip(run.training(known.key) / "evaluation" / "draws.npz", 0.5)
    page = report(run).read_text()
    assert "Damaged files" in page
    assert "draws.npz is not the one that was written; `sbiflow evaluate -o" in page
    assert known.result["settings"]["weights"] in page


def test_a_key_that_leaves_the_run_directory_is_refused(
    known: Known, run: RunDirectory, tmp_path: Path
) -> None:
    for key in ("../trainings/x", "..", "/tmp", "a/b", ""):
        with pytest.raises(DamagedError, match="is no training"):
            run.training(key)
    shutil.copytree(run.training(known.other), run.path / "outside")
    (run.path / "latest.json").write_text(json.dumps({"training": "../outside"}))
    assert latest_training(run) == known.key


# --- files of versions without seals ---------------------------------------------------------------


def unseal(known: Known, run: RunDirectory) -> None:
    """Bring a run into the form in which versions without seals left it."""
    for path in (run.path / "config.yml", run.path / "latest.json"):
        plain = read_text(path) if path.suffix == ".yml" else json.dumps(_plain(path))
        path.write_text(plain)
    for key in (known.key, known.other):
        folder = run.training(key)
        (folder / "config.yml").unlink()
        done = _plain(folder / "done.json")
        del done["files"]
        (folder / "done.json").write_text(json.dumps(done, indent=1))
        curves = _plain(folder / "curves.json")["curves"]
        (folder / "curves.json").write_text(json.dumps(curves, indent=1))
        metrics = _plain(folder / "evaluation" / "metrics.json")
        del metrics["draws"]
        (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics, indent=1))
        posterior = json.loads((folder / "posterior" / "posterior.json").read_text())
        del posterior["checksum"]
        text = json.dumps({**posterior, "format": 2}, indent=2)
        (folder / "posterior" / "posterior.json").write_text(text)
    for path in run.path.rglob("*.npz"):
        if "store" not in path.parts:
            arrays = dict(np.load(path))
            arrays.pop("description", None)
            np.savez_compressed(path, **arrays)
    events = Journal(run.journal).read()
    for event in events:
        if event["event"] == "start":
            event.pop("training", None)
    run.journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    (run.path / "journal.json").unlink()


def _plain(path: Path) -> dict[str, Any]:
    content = dict(read_document(path))
    del content["format"]
    return content


def test_runs_of_versions_without_seals_are_found_done(
    known: Known, run: RunDirectory, tmp_path: Path, capsys: Any
) -> None:
    unseal(known, run)
    files = list((run.path / "trainings").rglob("*.json"))
    before = [path.read_bytes() for path in files]
    assert repeat(run) == known.result
    assert np.array_equal(sampled(run, tmp_path), known.draws)
    report(run)
    history = History(run, tmp_path)
    records = {record.key.rpartition("/")[2]: record for record in history.records()}
    assert records[known.key].parameters["train.steps"] == "5"
    assert records[known.other].parameters["train.steps"] == "4"
    assert [path.read_bytes() for path in files] == before
    assert "damaged" not in capsys.readouterr().err
    (run.training(known.key) / "posterior" / "weights.pt").unlink()
    assert repeat(run) == known.result


# --- the configuration -----------------------------------------------------------------------------


def state(run: RunDirectory) -> tuple[bytes, list[str]]:
    """Return the configuration and what the journal holds."""
    return run.config.read_bytes(), [event["event"] for event in Journal(run.journal).read()]


def test_work_that_is_done_changes_no_configuration(known: Known, run: RunDirectory) -> None:
    before = state(run)
    stages.train(words(run, "train.gpu=true", "train.walltime=9"), run, Stop())
    assert state(run) == before
    stages.evaluate(words(run, "track.experiment=other"), run, Stop())
    assert state(run) == before


def test_work_that_is_done_by_a_configuration_keeps_it(known: Known, run: RunDirectory) -> None:
    before = state(run)
    stages.evaluate(words(run, "evaluate.draws=12"), run, Stop())
    assert configuration.parse(run.config.read_text(), run.config)["evaluate"]["draws"] == 12
    assert state(run)[1] == [*before[1], "start", "evaluated"]
    config = words(run, "train.steps=4")  # another that is done: the choice changes
    assert stages.train(config, run, Stop()).key == known.other
    assert configuration.parse(run.config.read_text(), run.config)["train"]["steps"] == 4
    assert latest_training(run) == known.other


def test_each_training_keeps_the_configuration_it_was_made_by(
    known: Known, run: RunDirectory, tmp_path: Path
) -> None:
    def kept() -> dict[str, bytes]:
        return {
            key: (run.training(key) / "config.yml").read_bytes() for key in (known.key, known.other)
        }

    before = kept()
    repeat(run, "evaluate.draws=12", "train.gpu=true")
    repeat(run, "train.steps=4", "train.gpu=false")
    assert kept() == before
    for key, steps in ((known.key, 5), (known.other, 4)):
        record = next(r for r in History(run, tmp_path).records() if r.key.endswith(key))
        assert record.parameters["train.steps"] == str(steps)
        (attached,) = [path for path, _ in record.artefacts if path.name == "config.yml"]
        assert attached == run.training(key) / "config.yml"
        assert attached.read_text().splitlines()[1] == f"{BELONGS}{key}"
        assert configuration.parse(attached.read_text(), attached)["train"]["steps"] == steps


def test_a_changed_configuration_is_kept_aside_and_written_anew(
    run: RunDirectory, capsys: Any
) -> None:
    before = run.config.read_text()
    run.config.write_text(before.replace("budget: 80", "budget: 70"))
    assert configuration.load(run).budget == 80
    assert "config.yml was changed" in capsys.readouterr().err
    stages.train(words(run), run, Stop())
    assert run.config.read_text() == before
    assert "budget: 70" in (run.path / "config.yml.changed").read_text()


def test_without_a_journal_a_damaged_configuration_is_asked_for(
    known: Known, run: RunDirectory
) -> None:
    values = configuration.load(run).plain()
    run.journal.unlink()
    run.config.write_bytes(b"")
    with pytest.raises(DamagedError, match=r"give it again by `sbiflow run CONFIG -o"):
        words(run)
    config = configuration.resolve(run, values)
    stages.train(config, run, Stop())
    assert configuration.load(run) == config


def test_a_run_s_own_configuration_as_the_source_is_the_run_s(run: RunDirectory) -> None:
    before = run.config.read_text()
    run.config.write_text(before.replace("sampling_steps: 2", "sampling_steps: 3"))
    assert configuration.resolve(run, run.config).evaluate.sampling_steps == 2


# --- disks that are full ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["os.replace", "os.fsync"])
def test_a_full_disk_is_a_clear_error(
    known: Known, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = words(run, "train.steps=3")
    monkeypatch.setattr(name, full)
    for work in (
        lambda: stages.train(config, run, Stop()),
        lambda: stages.evaluate(words(run, "evaluate.draws=5"), run, Stop()),
        lambda: report(run),
    ):
        with pytest.raises(PipelineError, match="the disk is full: free some space"):
            work()
    monkeypatch.undo()
    assert repeat(run, "train.steps=5", "evaluate.draws=10") == known.result
