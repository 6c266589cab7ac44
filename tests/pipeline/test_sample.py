"""`sbiflow sample`: importance weights, warnings, and passes that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import reweight
from pipeline.errors import UsageError
from pipeline.sample import sample

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
    config.write_text(config.read_text().replace(str(source), str(bare)))
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


def test_passes_that_do_not_fit_are_refused(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="steps"):
        sample(finished.run, {"x": X}, 5, 0, 0, tmp_path / "a.npz")
