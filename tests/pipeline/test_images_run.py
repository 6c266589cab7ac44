"""Bayesian denoising as a user runs it: `configs/fashion_denoising_small.yaml`, shortened."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from simulators.fashion_denoising import FOLDER, PACKAGE
from tests.pipeline.test_cli import sbiflow
from tests.real import missing

CONFIG = Path(__file__).parents[2] / "configs" / "fashion_denoising_small.yaml"
SHORT = (
    *("budget=200", "test=5", "train.steps=20", "train.validate_every=10", "evaluate.draws=4"),
    *("estimator.arguments.width=8", "estimator.arguments.replay_size=64", "simulate.workers=1"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path(FOLDER).exists():
        missing("Bayesian denoising of Fashion-MNIST", f"apt-get install {PACKAGE}")
    folder = tmp_path_factory.mktemp("images") / "run"
    sbiflow("run", CONFIG, "-o", folder, *SHORT)
    return folder


def test_the_report_shows_images_and_maps(run: Path) -> None:
    page = (run / "report.html").read_text()
    drawn = [
        base64.b64decode(code).decode() for code in re.findall(r"svg\+xml;base64,([^\"]+)", page)
    ]
    for caption in (
        "truth, observation, mean",
        "largest error",
        "Each pixel, over all test images",
    ):
        assert caption in page
    galleries = [svg for svg in drawn if svg.count("<image") >= 8 * 3]  # eight images in three rows
    assert len(galleries) == 2
    assert "RMSE of images" in page
    assert page.count("<th") < 100  # no tables of 784 columns


def test_metrics_and_draws_are_those_of_images(run: Path) -> None:
    (folder,) = (run / "trainings").iterdir()
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())["metrics"]
    assert 0.2 < metrics["rmse_image"]["mean"] < 1.2
    assert len(metrics["coverage_pixels"]["map_90"]) == 784
    arrays = np.load(folder / "evaluation" / "draws.npz")
    assert arrays["observed"].shape == (5, 28, 28)
    draws = arrays["draws_2"]
    assert draws.shape == (5, 4, 784)
    assert np.abs(draws).max() <= 1
    assert (draws == -1).mean() > 0.01  # black, not nearly black


def test_an_image_of_another_size_is_refused(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((28, 27)))
    done = sbiflow("sample", "-o", run, "--obs", tmp_path / "x.npy", "-n", "2",
                   "--out", tmp_path / "s.npz", code=2)  # fmt: skip
    assert "(28, 28)" in done.stderr
    assert not (tmp_path / "s.npz").exists()


def test_the_shipped_prior_is_inverted_as_the_documents_say(tmp_path: Path) -> None:
    if not Path(FOLDER).exists():
        missing("a prior of Fashion-MNIST", f"apt-get install {PACKAGE}")
    short = [*SHORT, "evaluate.metrics=[seconds]"]
    sbiflow("run", CONFIG.with_name("fashion_prior_small.yaml"), "-o", tmp_path / "prior", *short)
    measured, out = tmp_path / "y.npz", tmp_path / "draws.npz"
    np.savez(measured, y=np.full((7, 7), -0.5))
    few = ("particles=4", "moves=1", "final_moves=1")
    sbiflow(
        *("invert", "-o", tmp_path / "prior", "--operator", "downsample", "--obs", measured),
        *("-n", "3", "--out", out, *few),
    )
    with np.load(out) as file:
        assert file["theta"].shape == (3, 784)
        assert np.abs(file["theta"]).max() <= 1
