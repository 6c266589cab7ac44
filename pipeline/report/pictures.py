"""The pictures of the report, each as SVG with its caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from evaluation.scale import labels, on_scale
from pipeline.report.images import image_pictures, image_shape
from pipeline.results import Results
from pipeline.store import Outcome, Store
from pipeline.tolerant_reader import TolerantReader

MOST_ROWS = 20_000  # simulations that a plot looks at
NULLS = {"c2st": 0.5, "c2st_paper": 0.5}

Picture = tuple[str, str]  # SVG, caption


def posterior_pictures(results: Results, reader: TolerantReader) -> dict[str, Picture]:
    """Return the pictures of a training and its evaluation by name; those that can be drawn."""
    pictures = _curves(reader(results.curves) or [])
    result = reader(results.evaluated, "evaluate")
    arrays = reader(results.draws, "evaluate") if result else None
    if result is None or arrays is None:
        return pictures
    found = dict(_evaluated(result, arrays)) | pictures
    return {name: found[name] for name in sorted(found, key=_place)}


def _place(name: str) -> int:
    """Return where on the page a picture stands: draws first, then calibration, then the rest."""
    order = ("images", "pairs", "sbc", "recovery", "c2st", "training")
    return next((i for i, start in enumerate(order) if name.startswith(start)), len(order))


def _curves(curves: list[dict[str, Any]]) -> dict[str, Picture]:
    from evaluation import plots

    if not curves:
        return {}
    caption = "Training and validation loss; validation uses the averaged weights."
    return {"training": (plots.svg(plots.training(curves)), caption)}


def _evaluated(
    result: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Iterator[tuple[str, Picture]]:
    from evaluation import plots

    metrics, names = result["metrics"], result["posterior"]["names"]
    scales = result["posterior"].get("scales", ["linear"] * len(names))
    theta = on_scale(arrays["theta"], scales)
    draws = on_scale(arrays[f"draws_{result['settings']['sampling_steps'][0]}"], scales)
    references = arrays.get("references")
    references = None if references is None else on_scale(references, scales)
    names = labels(names, scales)
    if (shape := image_shape(result["posterior"])) is not None:
        yield from image_pictures(metrics, arrays, draws, shape)
        return
    for name, null in NULLS.items():
        if "values" in (record := metrics.get(name, {})):
            figure = plots.distribution(np.array(record["values"]), name.upper(), null)
            yield (
                name,
                (plots.svg(figure), f"{name.upper()} of each test set against the reference."),
            )
    if "fractions" in (sbc := metrics.get("sbc", {})):
        caption = (
            "Ranks of the true parameters among the draws: ECDF minus uniform. The band holds a perfect"
            " sampler's whole curve in 95 % of cases."
        )
        yield "sbc", (plots.svg(plots.sbc_ecdf(np.array(sbc["fractions"]), names)), caption)
    for label, index in _examples(metrics, len(theta)).items():
        reference = None if references is None else references[index]
        figure = plots.pairs(draws[index], names, theta[index], reference)
        ident = int(arrays["ids"][index])
        caption = f"Test simulation {ident}, {label}; lines mark the true parameters."
        yield f"pairs_{label.split()[0]}", (plots.svg(figure), caption)
    caption = "Posterior medians against true values, with central 90 % intervals."
    yield "recovery", (plots.svg(plots.recovery(theta, draws, names)), caption)


def _examples(metrics: Mapping[str, Any], count: int) -> dict[str, int]:
    """Choose the test sets to show: the median and the worst by C2ST, or the first."""
    values = metrics.get("c2st", {}).get("values")
    if not values:
        return {"the first": 0} if count else {}
    order = np.argsort(values)
    middle, last = int(order[(count - 1) // 2]), int(order[-1])
    return {
        f"typical (C2ST {values[middle]:.3f})": middle,
        f"worst (C2ST {values[last]:.3f})": last,
    }


def simulation_pictures(
    stores: Mapping[str, Store], counts: Mapping[str, Mapping[str, int]]
) -> Iterator[Picture]:
    """Yield outcomes, run times, and where in parameter space training simulations are not ok."""
    from evaluation import plots, simulation_plots

    yield plots.svg(simulation_plots.outcomes(counts)), "Outcomes, as shares of what was asked for."
    if "train" not in stores or not counts["train"]["done"]:
        return
    store = stores["train"]
    budget = counts["train"]["done"] + counts["train"]["missing"]
    theta, seconds = _sample(store, budget)
    failures = store.failures(budget)[:MOST_ROWS]
    times, places = {"ok": seconds}, {}
    for kind in Outcome:
        rows = [row for row in failures if row.outcome == kind]
        if rows:
            times[kind.name.lower()] = np.array([row.seconds for row in rows])
            places[kind.name.lower()] = np.stack([row.theta for row in rows])
    yield plots.svg(simulation_plots.seconds(times)), "Run time of one simulation."
    if places and len(theta):
        caption = (
            "Where simulations are not ok. They are left out of training, which changes the posterior"
            " there."
        )
        yield plots.svg(simulation_plots.failures(theta, places, store.names)), caption


def _sample(store: Store, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters (n, D) and seconds (n,) of the first simulations that are ok, in id order."""
    ok = store.index.below(budget).of(Outcome.OK)
    first = ok.at(ok.ranges.ids(0, MOST_ROWS))
    theta = first.column("theta").reshape(-1, len(store.names))
    return theta, first.column("seconds").reshape(-1)
