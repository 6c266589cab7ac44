"""The report's pictures of a posterior whose parameters are an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

FIRST, WORST = 3, 3  # test images that are shown
LEVELS = {"map_50": 0.5, "map_90": 0.9}

Picture = tuple[str, str]  # SVG, caption


def image_shape(posterior: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) of the parameters of an evaluated posterior, None where they are no image."""
    shape = posterior.get("shape", ())
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 else None


def image_pictures(
    metrics: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    draws: np.ndarray,
    shape: tuple[int, int],
) -> Iterator[tuple[str, Picture]]:
    """Yield the first and the worst test images with their draws, and a map for what each pixel has."""
    from evaluation import image_plots, plots

    theta, observed = arrays["theta"], arrays.get("observed")
    errors = np.sqrt(np.square(draws - theta[:, None]).mean((1, 2)))
    order = np.argsort(errors, kind="stable")[::-1]
    chosen = {
        "first": np.arange(min(FIRST, len(theta))),
        "worst": order[: min(WORST, len(theta))],
    }
    captions = {
        "first": "The first test images: truth, observation, mean and standard deviation of the draws, draws.",
        "worst": "The test images with the largest error of their draws.",
    }
    for name, rows in chosen.items():
        labels = [f"{int(arrays['ids'][i])}: RMSE {errors[i]:.3g}" for i in rows]
        seen = None if observed is None else observed[rows]
        figure = image_plots.gallery(theta[rows], draws[rows], seen, shape, labels)
        yield f"images_{name}", (plots.svg(figure), captions[name])
    values = {"RMSE of the draws": np.sqrt(np.square(draws - theta[:, None]).mean((0, 1)))}
    centres = {}
    for key, level in LEVELS.items():
        if key in (record := metrics.get("coverage_pixels", {})):
            title = f"coverage of {level:.0%} intervals"
            values[title] = np.array([np.nan if v is None else v for v in record[key]], float)
            centres[title] = level
    caption = "Each pixel, over all test images; pixels that do not vary have no coverage."
    yield "images_maps", (plots.svg(image_plots.maps(values, shape, centres)), caption)
