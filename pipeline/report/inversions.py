"""The report's section on inverse problems: a table of all that were measured, and pictures of their draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.inversions import inversions
from pipeline.report import page
from pipeline.report.contents import RunContents
from pipeline.report.images import image_shape

SHOWN = 4  # measurements

Picture = tuple[str, str]  # SVG, caption


def section(contents: RunContents) -> str:
    """Return the section, empty where no inverse problem was measured."""
    found = {one.key: contents.reader(one.metrics, "invert") for one in inversions(contents.run)}
    known = {key: content for key, content in found.items() if content}
    names = list(dict.fromkeys(name for content in known.values() for name in content["metrics"]))
    rows = [_row(content, names) for content in known.values()]
    head = ["method", "operator", "images", "draws", *names, "passes", "seconds"]
    figures: list[Picture] = []
    for one in inversions(contents.run):
        content = known.get(one.key)
        arrays = contents.reader(one.arrays, "invert") if content else None
        if content and arrays:
            what = f"{content['operator']} by {content['method']}. "
            given = arrays["y"], arrays["draws"], tuple(content["shape"])
            figures += [
                (svg, what + caption)
                for svg, caption in pictures(*given, contents.names, arrays["theta"])
            ]
    return page.section("Inverse problems", page.table(head, rows), page.figures(figures))


def _row(content: dict[str, Any], names: list[str]) -> list[object]:
    numbers = [content["metrics"].get(name) for name in names]
    told = ["–" if one is None else _number(one) for one in numbers]
    first = [content["method"], content["operator"], content["test"], content["n"]]
    return [*first, *told, f"{content['passes']:.0f}", f"{content['seconds']:.2g}"]


def _number(one: dict[str, Any]) -> str:
    sem = "" if one["sem"] is None else f" ± {one['sem']:.2g}"
    return f"{one['mean']:.3g}{sem}"


def pictures(
    y: np.ndarray,
    draws: np.ndarray,
    shape: tuple[int, ...],
    names: Sequence[str],
    truth: np.ndarray | None = None,
) -> Iterator[Picture]:
    """Yield pictures of draws for the first measurements.

    Arguments:
        y: measurements, shape (B, ...). draws: shape (B, n, D).
        shape: of the parameters as an array.
        names: of the parameters.
        truth: true parameters (B, D), where they are known.
    """
    from evaluation import image_plots, plots

    image = image_shape({"shape": shape})
    count = min(SHOWN, len(draws))
    if image is not None:
        seen = y if y.ndim == 3 else None
        labels = [f"measurement {b}" for b in range(count)]
        figure = image_plots.gallery(
            None if truth is None else truth[:count],
            draws[:count],
            None if seen is None else np.asarray(seen[:count]),
            image,
            labels,
        )
        yield (
            plots.svg(figure),
            "The first measurements: mean and standard deviation of the draws, draws.",
        )
        return
    for b in range(count):
        figure = plots.pairs(draws[b], names, None if truth is None else truth[b], None)
        yield plots.svg(figure), f"Draws for measurement {b}."
