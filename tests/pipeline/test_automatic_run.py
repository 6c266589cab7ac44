"""`estimator: auto` in a run: resolved where rows are known, said, and kept with the training."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.results import Results
from pipeline.stop import Stop
from pipeline.train.setup import Training
from pipeline.train.stage import train


def automatic(finished: Any, *words: str) -> Any:
    """Return the configuration of a small training with `auto`."""
    small = "estimator.arguments={width: 8, depth: 1, members: 1}"
    return finished.configure("estimator.name=auto", small, "train.steps=40", *words)


def test_it_is_resolved_said_and_kept(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = automatic(finished)
    result = train(config, finished.run, stop=Stop())
    said = capsys.readouterr().err
    assert "train: estimator auto: cmpe_distilled with summary=tabular, centre=True" in said
    assert result.key.startswith("300-cmpe_distilled-")
    kept = Results(finished.run, result.key).config()
    assert kept is not None
    assert kept["estimator"]["name"] == "cmpe_distilled"
    assert kept["estimator"]["arguments"] == {
        "summary": "tabular", "centre": True, "width": 8, "depth": 1, "members": 1,
    }  # fmt: skip
    named = finished.configure(
        "estimator.name=cmpe_distilled", "train.steps=40",
        "estimator.arguments={width: 8, depth: 1, members: 1, summary: tabular, centre: true}",
    )  # fmt: skip
    assert Training(named, finished.run).key == result.key


def test_settings_of_what_it_stands_for_go_first(finished: Any) -> None:
    config = automatic(finished, "estimator.only={cmpe_distilled: {dropout: 0.4}}")
    settings = Training(config, finished.run).config.estimator.settings
    assert settings["dropout"] == 0.4
    assert settings["summary"] == "tabular"


def test_a_preprocessing_that_does_not_fit_is_refused(finished: Any) -> None:
    config = automatic(finished, "estimator.preprocessing=tumor_spheroid")
    with pytest.raises(UsageError, match=r"estimator\.preprocessing='tumor_spheroid'"):
        Training(config, finished.run)
