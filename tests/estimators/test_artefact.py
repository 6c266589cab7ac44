"""Artefacts: damaged and newer ones are refused, a write is whole or not at all."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

import estimators
from estimators import artefact, testing
from estimators.description import sealed
from estimators.problem import InferenceProblem


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "posterior"
    estimators.save(path, testing.trained("cmpe", width=16), {"digest": "abc", "budget": 10})
    return path


def edit(path: Path, **changes: object) -> None:
    """Change a description and seal it again."""
    file = path / "posterior.json"
    content = {**json.loads(file.read_text()), **changes}
    del content["checksum"]
    file.write_bytes(sealed(content))


def test_it_comes_back_with_its_description(saved: Path) -> None:
    posterior = estimators.load(saved)
    assert posterior.estimator == "cmpe"
    assert posterior.names == ("a", "b")
    assert posterior.provenance == {"digest": "abc", "budget": 10}
    assert sorted(p.name for p in saved.parent.iterdir()) == ["posterior"]
    assert sorted(p.name for p in saved.iterdir()) == ["posterior.json", "weights.pt"]


def test_weights_are_tensors_alone(saved: Path) -> None:
    state = torch.load(saved / "weights.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_infinite_bounds_come_back(tmp_path: Path) -> None:
    theta, x = testing.rows(20)
    f = estimators.create("cmpe", theta, x, low=[-torch.inf, 0], high=[torch.inf, 3], width=8)
    estimators.save(tmp_path / "p", f, {})
    assert estimators.load(tmp_path / "p").module.problem == f.problem


@pytest.mark.parametrize("place", [0, 0.3, 0.7, -1])
def test_a_flipped_byte_is_found(saved: Path, place: float) -> None:
    file = saved / "weights.pt"
    data = bytearray(file.read_bytes())
    data[int(place * len(data)) if place >= 0 else -1] ^= 1
    file.write_bytes(data)
    with pytest.raises(estimators.ArtefactError, match=r"weights\.pt.*damaged"):
        estimators.load(saved)


def test_any_changed_byte_of_the_description_is_found(saved: Path) -> None:
    file = saved / "posterior.json"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(estimators.ArtefactError, match=r"posterior\.json: damaged"):
            estimators.load(saved)


def test_a_description_without_a_checksum_is_one_of_format_2(saved: Path) -> None:
    file = saved / "posterior.json"
    content = json.loads(file.read_text())
    del content["checksum"]
    file.write_text(json.dumps(content))
    with pytest.raises(estimators.ArtefactError, match="no checksum"):
        estimators.load(saved)
    file.write_text(json.dumps({**content, "format": 2}))
    assert estimators.load(saved).provenance == content["provenance"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', "\udcff"])
def test_a_damaged_description_is_refused(saved: Path, text: str) -> None:
    (saved / "posterior.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(estimators.ArtefactError, match="damaged"):
        estimators.load(saved)


def test_a_missing_file_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(estimators.ArtefactError, match="no posterior here"):
        estimators.load(tmp_path / "elsewhere")
    (saved / "weights.pt").unlink()
    with pytest.raises(estimators.ArtefactError, match=r"weights\.pt is missing"):
        estimators.load(saved)


def test_a_newer_format_says_so(saved: Path) -> None:
    edit(saved, format=99, weights="elsewhere")
    with pytest.raises(estimators.ArtefactError, match=r"newer.*up to 3"):
        estimators.load(saved)


def test_an_older_format_says_so(saved: Path) -> None:
    edit(saved, format=1)
    with pytest.raises(estimators.ArtefactError, match="older format 1"):
        estimators.load(saved)


def test_other_shapes_do_not_fit(saved: Path) -> None:
    edit(saved, arguments={"width": 17})
    with pytest.raises(estimators.ArtefactError, match="does not fit"):
        estimators.load(saved)


def test_an_unknown_estimator_is_named(saved: Path) -> None:
    edit(saved, estimator="gone:Away")
    with pytest.raises(LookupError, match="gone"):
        estimators.load(saved)


@pytest.mark.parametrize("killed_at", range(8))
def test_a_write_is_whole_or_not_at_all(
    saved: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call on files is the last one, the old or the new posterior is read."""

    class Killed(BaseException):
        pass

    calls = 0

    def dying(call: object) -> object:
        def wrapped(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > killed_at:
                raise Killed
            return call(*arguments, **options)

        return wrapped

    new = testing.make("cmpe", width=24)
    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(artefact.os, "fsync", dying(artefact.os.fsync))
    monkeypatch.setattr(artefact, "_write", dying(artefact._write))
    monkeypatch.setattr(artefact.shutil, "rmtree", dying(artefact.shutil.rmtree))
    with pytest.raises(Killed):
        estimators.save(saved, new, {})
    monkeypatch.undo()
    assert estimators.load(saved).module.arguments["width"] in (16, 24)
    estimators.save(saved, new, {})
    assert estimators.load(saved).module.arguments["width"] == 24


def test_only_created_estimators_are_saved(tmp_path: Path) -> None:
    from estimators.cmpe import CMPE, CMPESettings

    nameless = CMPE(InferenceProblem(("a",), (0.0,), (1.0,), {"x": (1,)}), CMPESettings())
    with pytest.raises(ValueError, match="create"):
        estimators.save(tmp_path / "p", nameless, {})


def test_provenance_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        estimators.save(tmp_path / "p", testing.make("cmpe", width=8), {"when": object()})
    assert not list(tmp_path.iterdir())


def test_an_artefact_with_former_names_is_read_silently(tmp_path: Path) -> None:
    path = tmp_path / "posterior"
    made = testing.make("cmpe", width=8, input_scale=2.5, sampling_steps=3)
    estimators.save(path, made, {})
    edit(path, arguments={"width": 8, "gain": 2.5, "steps": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior = estimators.load(path)
    assert posterior.sampling_steps == 3
    x = testing.rows(2)[1]
    assert torch.equal(posterior.sample(x, 5, seed=0), made.posterior().sample(x, 5, seed=0))
