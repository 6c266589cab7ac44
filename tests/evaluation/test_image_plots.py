"""Pictures of images: they are drawn, with what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import plots
from evaluation.image_plots import gallery, maps
from pipeline.report.images import image_pictures, image_shape


def test_a_gallery_has_a_row_for_each_test_image() -> None:
    rng = np.random.default_rng(0)
    theta, draws = rng.normal(size=(2, 12)), rng.normal(size=(2, 5, 12))
    figure = gallery(theta, draws, rng.normal(size=(2, 4, 5)), (3, 4), ["a", "b"])
    heads = [ax.get_title() for ax in figure.axes[:8]]
    assert heads == ["truth", "observation", "mean", "sd", "draw 1", "draw 2", "draw 3", "draw 4"]
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert np.array_equal(shown[0], theta[0].reshape(3, 4))
    assert np.allclose(shown[2], draws[0].mean(0).reshape(3, 4))
    assert np.allclose(shown[11], draws[1].std(0).reshape(3, 4))
    assert plots.svg(figure).startswith("<?xml")


def test_maps_are_centred_at_what_is_perfect() -> None:
    values = {"coverage": np.array([0.4, 0.5, np.nan, 0.55]), "error": np.arange(4.0)}
    figure = maps(values, (2, 2), {"coverage": 0.5})
    low, high = figure.axes[0].images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high == pytest.approx(0.6)


def test_the_report_shows_first_and_worst_images() -> None:
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(5, 64))
    draws = theta[:, None] + rng.normal(size=(5, 3, 64)) * np.array([1, 1, 1, 1, 5])[:, None, None]
    arrays = {"theta": theta, "ids": np.arange(10, 15), "observed": theta.reshape(-1, 8, 8)}
    record = {"coverage_pixels": {"map_50": [None, *[0.5] * 63], "map_90": [0.9] * 64}}
    found = dict(image_pictures(record, arrays, draws, (8, 8)))
    assert list(found) == ["images_first", "images_worst", "images_maps"]
    assert all("<svg" in svg for svg, _ in found.values())


def test_only_two_axes_are_an_image() -> None:
    assert image_shape({"shape": [28, 28]}) == (28, 28)
    assert image_shape({"shape": [784]}) is None
    assert image_shape({}) is None
