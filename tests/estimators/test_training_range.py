"""How far an observation lies outside the training range: known distances, masks, constants."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import estimators
from estimators import testing, training_range
from estimators.training_range import TrainingRange


def test_distance_is_in_training_standard_deviations() -> None:
    spread = TrainingRange({"b": (2,), "a": ()})
    a = torch.tensor([0.0, 2.0, 0.0, 2.0])  # standard deviation 1
    b = torch.stack([torch.zeros(4), 10 * a], dim=1)
    spread.fit({"a": a, "b": b})
    x = {"a": torch.tensor([1.0, 5.0, -1.0]), "b": torch.tensor([[0.0, 3], [0, 3], [0, 120]])}
    distance, element = spread.distances(x)
    assert distance.tolist() == pytest.approx([0.0, 3.0, 10.0])
    assert element[1:].tolist() == [0, 2]
    text = spread.describe(x)
    assert "2 of 3 observations" in text
    assert (
        "number 2 by 10 training standard deviations: x['b'][1] = 120, in training 0 to 20" in text
    )


def test_within_the_range_there_is_nothing_to_say() -> None:
    spread = TrainingRange({"x": (3,)})
    x = {"x": torch.randn(100, 3)}
    assert spread.describe(x) == ""  # not fitted: everything is inside
    spread.fit(x)
    assert spread.describe(x) == ""
    assert spread.describe({"x": 1.0001 * x["x"]}) == ""


def test_an_element_that_never_changed_is_measured_by_the_output() -> None:
    spread = TrainingRange({"x": (2,), "y": ()})
    x = torch.stack([torch.tensor([-2.0, 2.0]), torch.zeros(2)], dim=1)
    spread.fit({"x": x, "y": torch.ones(2)})
    distance, _ = spread.distances({"x": torch.tensor([[0.0, 2.0]]), "y": torch.ones(1)})
    assert distance.item() == pytest.approx(2 / np.sqrt(2))
    distance, _ = spread.distances({"x": torch.zeros(1, 2), "y": torch.tensor([4.0])})
    assert distance.item() == pytest.approx(3.0)


def test_absent_elements_do_not_count() -> None:
    spread = TrainingRange({"x": (2,), "x_mask": (2,)})
    x = torch.tensor([[4.0, 0.0], [6.0, 0.0], [5.0, 7.0]])
    mask = torch.tensor([[1.0, 0], [1, 0], [1, 1]])
    spread.fit({"x": x, "x_mask": mask})
    assert spread.low.tolist() == [4.0, 7.0]
    assert (
        spread.describe({"x": torch.tensor([[5.0, 0]]), "x_mask": torch.tensor([[1.0, 0]])}) == ""
    )
    assert spread.describe({"x": torch.tensor([[5.0, 0]]), "x_mask": torch.ones(1, 2)}) != ""


def test_a_posterior_warns_and_its_artefact_too(tmp_path: Path) -> None:
    f, x = testing.trained("cmpe", width=8), testing.rows(3)[1]
    estimators.save(tmp_path / "p", f, {})
    far = {key: value.copy() for key, value in x.items()}
    far["trace"][1, 2, 0] = 50.0
    for posterior in (f.posterior(), estimators.load(tmp_path / "p")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            posterior.sample(x, 2)
        with pytest.warns(
            estimators.OutOfRangeWarning, match=r"1 of 3 .*x\['trace'\]\[2, 0\] = 50"
        ):
            posterior.sample(far, 2)


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 7)])
def test_the_spread_of_much_is_that_of_little(monkeypatch, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values.view(-1)[::9] = torch.nan
    whole = training_range._spread(values)
    monkeypatch.setattr(training_range, "NUMBERS", 20)
    torch.testing.assert_close(training_range._spread(values), whole)


def test_each_element_of_an_image_is_measured_by_the_whole_image():
    x = torch.rand(100, 8, 8)
    x[:, 0, 0] = 1e-6 * x[:, 0, 1]
    fitted = TrainingRange({"x": (8, 8)})
    fitted.fit({"x": x})
    assert torch.equal(fitted.scale, x.std(correction=0).expand(64))
