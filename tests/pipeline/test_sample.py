"""`sbiflow sample`: importance weights, warnings, and sampling steps that do not fit."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import estimators
from estimators import Posterior
from pipeline.errors import PipelineError, Stopped, UsageError
from pipeline.files import read_text, write_text
from pipeline.infer import reweight
from pipeline.infer.observation import read_observation
from pipeline.infer.sample import read_sampling_steps, sample
from pipeline.results import latest_training
from pipeline.run import RunDirectory
from pipeline.stop import stop_on_signals

X = np.array([0.3, -0.4])  # theta | x ~ N(0.8 x, 0.2), x ~ N(0, 1.25)
LOG_EVIDENCE = float(np.sum(-(X**2) / 2.5 - 0.5 * np.log(2 * np.pi * 1.25)))


def draw(finished: Any, out: Path, steps: int | None, **options: object) -> dict[str, np.ndarray]:
    sample(finished.run, {"x": X}, 1500, steps, 0, out / "draws.npz", **options)
    with np.load(out / "draws.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_correct_a_rough_posterior(
    finished: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    """One pass has its own density; of several, a flow is fitted to the draws."""
    monkeypatch.setattr(reweight, "UPDATES", 300)
    drawn = draw(finished, tmp_path, steps, reweight=True)
    assert drawn["theta"].shape == (1500, 2)
    weights = drawn["weights"]
    assert weights.sum() == pytest.approx(1)
    assert 1 / (weights**2).sum() == pytest.approx(drawn["ess"])
    said = capsys.readouterr().err
    assert ("fits a spline flow" in said) == (steps == 3)
    assert f"effective sample size {drawn['ess']:.0f} of 1500" in said
    if steps == 1:  # this network is hardly trained, its single pass far from one-to-one
        return
    assert drawn["ess"] > 150
    assert drawn["log_evidence"] == pytest.approx(LOG_EVIDENCE, abs=0.2)
    mean = weights @ drawn["theta"]
    assert mean == pytest.approx(0.8 * X, abs=0.1)
    spread = np.sqrt(weights @ (drawn["theta"] - mean) ** 2)
    assert spread == pytest.approx(np.sqrt(0.2), abs=0.1)


def test_without_likelihood_it_says_so(finished: Any, tmp_path: Path) -> None:
    config = finished.run.config
    source = Path(finished.config.simulator.name.rpartition(":")[0])
    bare = tmp_path / "gaussian.py"
    bare.write_text(source.read_text().replace("    log_likelihood=log_likelihood,\n", ""))
    write_text(config, read_text(config).replace(str(source), str(bare)))
    with pytest.raises(UsageError, match=r"--reweight: .*gaussian gives no likelihood"):
        draw(finished, tmp_path, 1, reweight=True)


def test_an_observation_far_away_gives_a_warning(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample(finished.run, {"x": X}, 5, None, 0, tmp_path / "a.npz")
    assert "range" not in capsys.readouterr().err
    sample(finished.run, {"x": X + 100}, 5, None, 0, tmp_path / "a.npz")
    said = capsys.readouterr().err
    assert "1 of 1 observations lie far outside the training range" in said
    assert "training standard deviations" in said


def test_sampling_steps_that_do_not_fit_are_refused(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="steps"):
        sample(finished.run, {"x": X}, 5, 0, 0, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (X * 1j, "complex128 in 'x': valid are real numbers"),
        (np.ma.masked_less(X, 0), "a masked array in 'x': fill in what is masked"),
        (np.array(["a", "b"]), "<U1 in 'x': valid are real numbers"),
        (np.array([1, None]), "object in 'x': valid are real numbers"),
    ],
)
def test_what_would_lose_a_part_is_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    with pytest.raises(UsageError, match=f"the observation holds {said}"):
        sample(RunDirectory(tmp_path / "run"), {"x": values}, 10, None, 0, tmp_path / "draws.npz")


# --- what is read and written ----------------------------------------------------------------------


def test_draws_that_come_in_portions_are_those_of_one_call(finished: Any, tmp_path: Path) -> None:
    posterior = estimators.load(finished.run.training(latest_training(finished.run)) / "posterior")
    x, out = np.stack([X, -X, 2 * X]), tmp_path / "draws.npz"
    for observed, n in ((X, 20_000), (x, 7000)):
        shape = sample(finished.run, {"x": observed}, n, 2, 5, out)
        wanted = posterior.sample({"x": np.atleast_2d(observed)}, n, steps=2, seed=5).numpy()
        with np.load(out) as file:
            assert np.array_equal(file["theta"], wanted.reshape(shape))
            assert file["theta"].dtype == np.float32
            assert np.array_equal(file["observation/x"], observed)
            assert file["names"].tolist() == ["a", "b"]


def save_objects(path: Path) -> None:
    np.savez(path, x=np.array([X, None], dtype=object))


def save_cut(path: Path) -> None:
    np.savez(path, x=np.zeros((100, 2)))
    path.write_bytes(path.read_bytes()[:-200])


def save_changed(path: Path) -> None:
    np.savez(path, x=np.arange(200.0))
    content = bytearray(path.read_bytes())
    content[900] ^= 1
    path.write_bytes(content)


def save_cut_npy(path: Path) -> None:
    np.save(path.with_suffix(".npy"), X)
    path.write_bytes(path.with_suffix(".npy").read_bytes()[:-3])


@pytest.mark.parametrize(
    ("save", "why"),
    [
        (lambda path: np.savez(path, x=np.array(["a", "b"])), "holds <U1 in 'x': .* real numbers"),
        (lambda path: np.savez(path, x=X + 1j), "holds complex128 in 'x'"),
        (lambda path: np.savez(path, x=X.astype("datetime64[s]")), "holds datetime64"),
        (lambda path: np.savez(path, x=np.zeros(2, [("a", "f8")])), "holds .*'a'"),
        (save_objects, "it holds Python objects"),
        (save_cut, "cannot read"),
        (save_changed, "Bad CRC"),
        (save_cut_npy, "cannot read"),
        (lambda path: path.write_bytes(b""), "cannot read"),
        (lambda path: path.write_text("0.3, -0.4"), "cannot read"),
        (lambda path: path.mkdir(), "cannot read"),
        (lambda path: None, "No such file"),
    ],
)
def test_a_file_that_is_no_observation_is_named(tmp_path: Path, save: Any, why: str) -> None:
    path = tmp_path / "x.npz"
    save(path)
    with pytest.raises(UsageError, match=f"(?s)x.npz.*{why}|{why}.*x.npz"):
        read_observation(path)


@pytest.mark.parametrize("values", [np.zeros((0, 2)), np.array([np.nan, 0.0])])
def test_no_observation_and_nan_are_refused(
    finished: Any, tmp_path: Path, values: np.ndarray
) -> None:
    with pytest.raises(UsageError, match=r"no observation|NaN"):
        sample(finished.run, {"x": values}, 5, None, 0, tmp_path / "a.npz")
    assert not list(tmp_path.glob("*a.npz*"))


def test_a_place_where_draws_cannot_be_written_is_refused_before_they_are_drawn(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    for out, why in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "draws.npz", "file is no folder"),
        (tmp_path / "pipe", "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
    ):
        with pytest.raises(UsageError, match=why):
            sample(RunDirectory(tmp_path), {"x": X}, 5, None, 0, out)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("number", ["0", "10001", "1000000", "-1"])
@pytest.mark.parametrize("key", ["sampling_steps", "steps"])
def test_sampling_steps_have_a_bound(key: str, number: str) -> None:
    with pytest.raises(UsageError, match="sampling_steps=N with N from 1 to 10000"):
        read_sampling_steps(f"{key}={number}")


def test_steps_is_the_former_name_of_sampling_steps() -> None:
    assert read_sampling_steps("sampling_steps=10000") == 10_000
    with pytest.warns(DeprecationWarning, match="sampling_steps"):
        assert read_sampling_steps("steps=10000") == 10_000
    with pytest.raises(UsageError):
        read_sampling_steps("n=3")


def test_an_interrupted_sample_leaves_nothing(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(self: Posterior, *_: Any, **__: Any) -> Iterator[torch.Tensor]:
        yield torch.zeros(100, 2)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the signal did not interrupt")

    def work() -> None:
        with stop_on_signals() as stop, stop.at_once("sample"):
            sample(finished.run, {"x": X}, 200, None, 0, tmp_path / "out" / "a.npz")

    monkeypatch.setattr(Posterior, "batches", batches)
    with pytest.raises(Stopped, match="sample stopped by SIGINT"):
        work()
    assert list((tmp_path / "out").iterdir()) == []


def test_more_draws_than_the_disk_holds_are_refused(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(PipelineError, match="bytes are needed"):
        sample(finished.run, {"x": X}, 200, None, 0, tmp_path / "a.npz")
