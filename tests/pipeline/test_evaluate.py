"""The evaluation stage on a small real run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluation
import sbiflow
from estimators import Posterior
from evaluation.journal import Journal
from pipeline import results
from pipeline.errors import DamagedError, PipelineError, Stopped, UsageError
from pipeline.evaluate import draws
from pipeline.evaluate.metric import numbers
from pipeline.evaluate.stage import evaluate
from pipeline.files import read_document
from pipeline.results import latest_training
from pipeline.stop import Stop


def run_stage(done: Any, *words: str, **extra: Any) -> dict[str, Any]:
    return evaluate(done.configure(*words), done.run, stop=Stop(), **extra)


def test_numbers_and_how_they_were_measured(evaluated: Any) -> None:
    result = run_stage(evaluated)
    c2st = result["metrics"]["c2st"]
    assert 0.5 < c2st["mean"] < 1
    assert c2st["mean"] == pytest.approx(np.mean(c2st["values"]))
    assert c2st["sem"] == pytest.approx(np.std(c2st["values"], ddof=1) / np.sqrt(c2st["n"]))
    assert (c2st["draws"], c2st["sampling_steps"], c2st["reference"]) == (150, 3, "exact")
    assert c2st["n"] == result["failed_share"]["test"]["ok"] < 30
    assert c2st["definition"].startswith("sbibm")
    assert set(result["metrics"]) == {"c2st", "mmd", "rmse", "sbc", "ece", "seconds"}
    ece = result["metrics"]["ece"]
    assert ece["null_band"][0] < ece["null_band"][1]
    assert result["metrics"]["seconds"]["mean"] > 0
    assert result["failed_share"]["train"]["share"] > 0.02
    assert result["posterior"]["key"] == latest_training(evaluated.run)
    assert len(result["posterior"]["digest"]) == 64


def test_what_is_written_is_what_was_measured(finished: Any) -> None:
    result = run_stage(finished)
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    assert read_document(folder / "metrics.json") == result
    with np.load(folder / "draws.npz") as arrays:
        metric = evaluation.load("rmse")
        again = metric(arrays["theta"], arrays["draws_3"].astype(float))
        assert result["metrics"]["rmse"]["mean"] == again.mean
        assert arrays["references"].shape == arrays["draws_3"].shape
        scores = evaluation.load("mmd")(arrays["references"], arrays["draws_3"].astype(float))
        assert result["metrics"]["mmd"]["values"] == scores.values.tolist()


def test_the_reference_itself_would_be_perfect(finished: Any) -> None:
    run_stage(finished, "evaluate.draws=300", "evaluate.metrics=[mmd]")
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    with np.load(folder / "draws.npz") as arrays:
        theta, references = arrays["theta"], arrays["references"]
    # dropping failed simulations cuts the prior, so only the middle is exactly calibrated
    inside = (theta[:, 0] < 1) & (theta[:, 1] > -1.5)
    assert evaluation.load("sbc")(theta[inside], references[inside]).inside.all()


def test_a_repeat_does_nothing_and_another_setting_measures_again(evaluated: Any) -> None:
    first = run_stage(evaluated, record=evaluated.log("evaluate"))
    path = evaluated.run.training(latest_training(evaluated.run)) / "evaluation" / "metrics.json"
    before = path.stat().st_mtime_ns
    assert run_stage(evaluated, record=evaluated.log("evaluate")) == first
    assert path.stat().st_mtime_ns == before
    told = [e for e in Journal(evaluated.run.journal).read() if e.get("event") == "evaluated"]
    assert len(told) == 1
    assert told[0]["sampling_steps"]["3"] == numbers(first["metrics"])
    other = run_stage(evaluated, "evaluate.seed=1")
    assert other["settings"]["seed"] == 1
    assert other["metrics"]["rmse"]["mean"] != first["metrics"]["rmse"]["mean"]


def test_equal_settings_give_equal_numbers(evaluated: Any) -> None:
    first = run_stage(evaluated)
    path = evaluated.run.training(latest_training(evaluated.run)) / "evaluation" / "metrics.json"
    path.unlink()
    again = run_stage(evaluated)
    for result in (first, again):
        del result["seconds"], result["metrics"]["seconds"]
    assert again == first


def test_references_are_kept_and_serve_again(finished: Any) -> None:
    run_stage(finished, "evaluate.metrics=[mmd]")
    (file,) = (finished.run.path / "references").glob("exact-*.npz")
    before = file.stat().st_mtime_ns
    run_stage(finished, "evaluate.metrics=[mmd, rmse]")
    assert file.stat().st_mtime_ns == before
    result = run_stage(finished, "evaluate.metrics=[mmd]", "evaluate.reference=wide")
    assert result["metrics"]["mmd"]["reference"] == "wide"
    assert len(list((finished.run.path / "references").iterdir())) == 2


def test_several_numbers_of_sampling_steps(finished: Any) -> None:
    result = run_stage(finished, "evaluate.sampling_steps=[2, 5]", "evaluate.metrics=[rmse, mmd]")
    assert result["metrics"]["mmd"]["sampling_steps"] == 2
    assert [one["sampling_steps"] for one in result["sweep"]] == [5]
    assert result["sweep"][0]["metrics"]["mmd"]["mean"] != result["metrics"]["mmd"]["mean"]


def test_draws_take_as_many_threads_as_training(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, sample, threads = [], Posterior.sample, torch.get_num_threads()

    def watched(self: Posterior, *given: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return sample(self, *given, **named)

    monkeypatch.setattr(Posterior, "sample", watched)
    torch.set_num_threads(2)
    try:
        run_stage(finished, "evaluate.metrics=[rmse]")
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_without_a_reference_the_others_are_measured(finished: Any) -> None:
    path, _, _ = finished.config.simulator.name.rpartition(":")
    source = Path(path).read_text()
    bare = finished.run.path.parent / "bare.py"
    references = '    references={"exact": exact, "wide": wide},\n'
    assert references in source
    bare.write_text(source.replace(references, ""))
    result = run_stage(finished, f"simulator.name={bare}:gaussian")
    assert "no reference posterior" in result["metrics"]["c2st"]["note"]
    assert "mean" not in result["metrics"]["c2st"]
    assert result["metrics"]["rmse"]["mean"] > 0
    assert result["settings"]["reference"] is None


def test_an_estimator_without_a_choice_of_sampling_steps(finished: Any) -> None:
    from pipeline.train.stage import train

    config = finished.configure("estimator={name: nsf}", "train.steps=5", "evaluate.metrics=[rmse]")
    train(config, finished.run, stop=Stop())
    result = evaluate(config, finished.run, stop=Stop())
    assert result["posterior"]["estimator"] == "nsf"
    assert result["metrics"]["rmse"]["sampling_steps"] is None


def test_an_older_training_can_be_named(finished: Any) -> None:
    key = latest_training(finished.run)
    finished.run.write_latest("another")
    assert run_stage(finished, "evaluate.metrics=[rmse]", key=key)["posterior"]["key"] == key


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("evaluate.reference=exakt", r"evaluate.reference = 'exakt': .* has exact, wide"),
        ("evaluate.metrics=[c2ts]", "unknown metric 'c2ts'; did you mean 'c2st'"),
        ("test=31", "test=31: 1 simulations are missing"),
        ("test=0", "no test simulations"),
    ],
)
def test_bad_settings_are_named(finished: Any, word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_stage(finished, word)
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    assert not folder.exists()


def test_a_stop_leaves_nothing_half(finished: Any) -> None:
    stop = Stop()
    stop.request("SIGTERM")
    with pytest.raises(Stopped):
        evaluate(finished.config, finished.run, stop=stop)
    assert not (finished.run.training(latest_training(finished.run)) / "evaluation").exists()


class StopWhenThere(Stop):
    """Asks to stop as soon as a file is there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def requested(self) -> bool:
        return self.path.exists()


def test_a_repeat_takes_up_the_draws_that_were_finished(finished: Any) -> None:
    words = ["evaluate.sampling_steps=[2, 5]", "evaluate.metrics=[rmse, seconds]"]
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    kept = folder / "blocks" / "drawn_2_0.npz"
    with pytest.raises(Stopped):
        evaluate(finished.configure(*words), finished.run, stop=StopWhenThere(kept))
    assert [path.name for path in kept.parent.iterdir()] == ["drawn_2_0.npz"]
    with np.load(kept) as file:
        seconds, draws = file["seconds"], file["draws"]
    resumed = run_stage(finished, *words)
    lowest = resumed["metrics"]["seconds"]["min"]
    assert lowest <= seconds * (1 + 1e-12)
    with np.load(folder / "draws.npz") as file:
        assert np.array_equal(file["draws_2"][: len(draws)], draws)
    assert not kept.parent.exists()

    (folder / "metrics.json").unlink()
    whole = run_stage(finished, *words)
    assert whole["metrics"]["rmse"] == resumed["metrics"]["rmse"]
    assert whole["sweep"][0]["metrics"]["rmse"] == resumed["sweep"][0]["metrics"]["rmse"]


def test_a_reference_that_fails_names_the_simulation(finished: Any) -> None:
    path, _, _ = finished.config.simulator.name.rpartition(":")
    broken = finished.run.path.parent / "broken.py"
    text = (
        Path(path).read_text().replace("return 0.8", 'raise ValueError("no draws")\n    return 0.8')
    )
    broken.write_text(text)
    with pytest.raises(PipelineError, match=r"'exact' for test simulation \d+: no draws"):
        run_stage(finished, f"simulator.name={broken}:gaussian")


def test_the_weights_are_read_once(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished.run.training(latest_training(finished.run)) / "posterior"
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    read, readings = results.read_posterior, []

    def counted(path: Path) -> Any:
        readings.append(path)
        return read(path)

    monkeypatch.setattr(results, "read_posterior", counted)
    run_stage(finished, "evaluate.metrics=[rmse]")
    run_stage(finished, "evaluate.metrics=[rmse]")  # finds it done
    assert readings == [folder] * 2  # once for each posterior that is loaded


@pytest.mark.slow
def test_the_numbers_are_the_same_for_any_number_of_workers_and_after_kills(
    finished: Any, tmp_path: Path
) -> None:
    words = ["evaluate.metrics=[c2st, mmd, rmse, tarp, crps, log_prob]", "evaluate.draws=40"]
    alone = run_stage(finished, *words, "evaluate.workers=1")
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    with np.load(folder / "draws.npz") as file:
        drawn = file["draws_3"]
    (folder / "metrics.json").unlink()
    stop = StopWhenThere(folder / "blocks" / "c2st_3_0.npz")
    with pytest.raises(Stopped):
        evaluate(finished.configure(*words, "evaluate.workers=2"), finished.run, stop=stop)
    left = len(list((folder / "blocks").iterdir()))
    assert 3 <= left < 9
    for workers in (2, 3):
        together = run_stage(finished, *words, f"evaluate.workers={workers}")
        assert together["metrics"] == alone["metrics"]
        with np.load(folder / "draws.npz") as file:
            np.testing.assert_array_equal(file["draws_3"], drawn)
        shutil.rmtree(folder)
        shutil.rmtree(finished.run.path / "references")
    assert "has no density" in alone["metrics"]["log_prob"]["note"]
    assert alone["metrics"]["tarp"]["null_band"][1] > 0


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("more", [["--workers", "2"], ["--chunks"]])
def test_an_evaluation_that_is_killed_has_the_numbers_of_an_undisturbed_one(
    more: list[str],
) -> None:
    words = ["--kills", "3", "--sets", "30", "--draws", "40", *more]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos_evaluate", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, found
    assert found["kills"] == 3
    assert found["chunks"] == (more == ["--chunks"])


def test_a_metric_that_cannot_be_measured_is_a_note(finished: Any) -> None:
    metrics = run_stage(finished, "evaluate.metrics=[c2st_local, rmse]")["metrics"]
    assert "needs at least 50" in metrics["c2st_local"]["note"]
    low, high = metrics["rmse"]["null_band"]
    assert low < high


STREAMED = (
    "rmse, rmse_paper, rmse_image, nrmse, r2, mae, sbc, ece, coverage, coverage_joint, mmd, crps, tarp"
    ", tarp_posterior"
)


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the draws of even a small evaluation in chunks."""
    monkeypatch.setattr(draws, "LARGE", 0)
    monkeypatch.setattr(draws, "SHOWN", (10, 1 << 20))


def damage(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-40] + bytes(40))


def test_draws_of_a_large_evaluation_are_kept_in_chunks_with_equal_numbers(
    finished: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    words = [f"evaluate.metrics=[{STREAMED}, coverage_pixels]", "evaluate.draws=30"]
    words.append("evaluate.workers=1")
    small = run_stage(finished, *words)["metrics"]
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    with np.load(folder / "draws.npz") as file:
        drawn, references = file["draws_3"], file["references"]
    shutil.rmtree(folder)
    shutil.rmtree(finished.run.path / "references")
    request.getfixturevalue("chunked")
    assert run_stage(finished, *words)["metrics"] == small
    with np.load(folder / "draws.npz") as file:
        np.testing.assert_array_equal(file["draws_3"], drawn[:, :10])
        np.testing.assert_array_equal(file["references"], references[:, :10])

    whole = sbiflow.Run(finished.run.path).draws()
    assert whole["draws_3"].dims == ("test", "draw", "parameter")
    assert list(whole["parameter"].values) == ["a", "b"]
    assert whole["draws_3"].chunks is not None
    np.testing.assert_array_equal(whole["draws_3"].sel(parameter="b").to_numpy(), drawn[..., 1])

    (folder / "metrics.json").unlink()
    monkeypatch.setattr(draws, "SHARE", 0)
    without = run_stage(finished, *words)["metrics"]
    assert "needs all draws in memory" in without["coverage_pixels"]["note"]
    assert without["tarp"] == small["tarp"]


def test_a_view_of_a_small_evaluation_and_of_none(finished: Any) -> None:
    run = sbiflow.Run(finished.run.path)
    with pytest.raises(UsageError, match="is not evaluated yet"):
        run.draws()
    run_stage(finished, "evaluate.metrics=[rmse]")
    found = run.draws()
    assert found["draws_3"].sizes["draw"] == 150
    assert found["theta"].shape == (found.sizes["test"], 2)


@pytest.mark.usefixtures("chunked")
def test_a_damaged_chunk_is_named_and_made_anew(finished: Any) -> None:
    words = ["evaluate.metrics=[rmse, mmd]", "evaluate.draws=30", "evaluate.workers=1"]
    first = run_stage(finished, *words)
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    whole = sbiflow.Run(finished.run.path).draws()["draws_3"]
    before = whole.to_numpy()
    chunk = folder / "draws_3.zarr" / "c" / "1" / "0" / "0"
    damage(chunk)
    message = r"draws_3.zarr, rows 10 to 19: damaged; `sbiflow evaluate -o .*` makes it anew"
    with pytest.raises(DamagedError, match=message):
        whole.to_numpy()
    np.testing.assert_array_equal(whole[:10].to_numpy(), before[:10])
    assert run_stage(finished, *words) == first
    np.testing.assert_array_equal(whole.to_numpy(), before)

    (folder / "metrics.json").unlink()
    damage(next((finished.run.path / "references").rglob("c/1/0/0")))
    assert run_stage(finished, *words)["metrics"] == first["metrics"]


@pytest.mark.usefixtures("chunked")
def test_a_chunk_that_is_damaged_before_it_is_measured_is_drawn_anew(finished: Any) -> None:
    words = ["evaluate.metrics=[mmd]", "evaluate.draws=30", "evaluate.workers=1"]
    folder = finished.run.training(latest_training(finished.run)) / "evaluation"
    stop = StopWhenThere(folder / "blocks" / "mmd_3_0.npz")
    with pytest.raises(Stopped):
        evaluate(finished.configure(*words), finished.run, stop=stop)
    damage(folder / "draws_3.zarr" / "c" / "1" / "0" / "0")
    again = run_stage(finished, *words)["metrics"]
    shutil.rmtree(folder)
    assert again == run_stage(finished, *words)["metrics"]


@pytest.mark.usefixtures("chunked")
def test_memory_does_not_grow_with_the_number_of_test_sets(finished: Any) -> None:
    metrics = "rmse, sbc, ece, coverage_joint, tarp, z_score, contraction"
    words = [f"evaluate.metrics=[{metrics}]", "evaluate.draws=20000", "evaluate.workers=1"]
    peaks = []
    for sets in (15, 30):
        run_stage(finished, *words, f"test={sets}", "evaluate.draws=30")  # caches
        tracemalloc.start()
        run_stage(finished, *words, f"test={sets}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
