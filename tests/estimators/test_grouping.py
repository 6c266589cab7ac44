"""One mean and scale for an image or a named group of parameters."""

from __future__ import annotations

import pytest
import torch

import estimators


def images(n=50, seed=0):
    theta = 3 + 2 * torch.randn(n, 64, generator=torch.Generator().manual_seed(seed))
    theta[:, 0] = -1.0
    return theta


def test_the_parameters_of_an_image_share_a_mean_and_a_scale_even_if_one_is_constant():
    theta = images()
    made = estimators.create(
        "cmpe", theta, {"x": theta.view(-1, 8, 8) + 1}, parameter_shape=(8, 8), width=8, depth=1
    )
    standard = made.transform.standard
    torch.testing.assert_close(standard.mean, theta.mean().expand(64))
    torch.testing.assert_close(standard.scale, theta.std(correction=0).expand(64))
    torch.testing.assert_close(made.summary.standard.mean, 1 + theta.mean().expand(64))
    torch.testing.assert_close(made.transform.inverse(made.transform(theta)), theta)


def test_named_groups_share_and_others_stand_alone():
    theta = images()[:, 1:5]
    made = estimators.create(
        "cmpe",
        theta,
        {"x": theta},
        names=["a", "b", "c", "d"],
        grouping={"first": ["a", "c"]},
        width=8,
        depth=1,
    )
    mean = made.transform.standard.mean
    assert mean[0] == mean[2] == pytest.approx(theta[:, [0, 2]].mean().item(), rel=1e-6)
    torch.testing.assert_close(mean[[1, 3]], theta[:, [1, 3]].mean(0))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"grouping": "element"}, "'theta0' is -1 in all 50 rows"),
        ({"grouping": {"g": ["theta0"]}}, "'theta0' is -1 in all 50 rows"),
        ({"grouping": "pixel"}, "valid: array, element"),
        ({"grouping": {"g": ["nothing"]}}, "'nothing' is unknown; valid: theta0"),
        ({"grouping": {"g": ["theta1"], "h": ["theta1"]}}, "'theta1' is in two groups"),
        ({"parameter_shape": (8, 9)}, "holds 72 of 64 parameters"),
    ],
)
def test_groups_that_do_not_fit_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        estimators.create(
            "cmpe", images(), {"x": images()}, **({"parameter_shape": (8, 8)} | given)
        )


def test_the_artefact_keeps_the_shape_and_the_shared_scale(tmp_path):
    theta = images()
    made = estimators.create("cmpe", theta, {"x": theta}, parameter_shape=(8, 8), width=8, depth=1)
    estimators.save(tmp_path / "posterior", made, {})
    loaded = estimators.load(tmp_path / "posterior")
    assert loaded.parameter_shape == (8, 8)
    assert loaded.module.problem.shape == (8, 8)
    assert torch.equal(loaded.module.transform.standard.scale, made.transform.standard.scale)
