"""The section of the report that lays ABC beside the neural posterior, for the same observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.scale import labels, on_scale
from pipeline.errors import PipelineError
from pipeline.progress import duration
from pipeline.report import page
from pipeline.report.contents import RunContents, count
from pipeline.results import abc_done, abc_draws, abc_keys

DRAWS, SEED = 4000, 0  # of the neural posterior
LEVELS = np.array([0.025, 0.5, 0.975])


def abc_section(contents: RunContents) -> str:
    """Return the section, "" where there is no ABC run."""
    parts = [_one(contents, key) for key in abc_keys(contents.run)]
    return page.section("ABC beside the network", *parts)


def _one(contents: RunContents, key: str) -> str:
    done = contents.reader(lambda: abc_done(contents.run, key), "abc")
    if not done:
        return ""
    draws, observation = abc_draws(contents.run, key)
    neural = _neural(contents, observation)
    rows = []
    for j, name in enumerate(done["names"]):
        row = [name, _interval(done["median"][j], done["low"][j], done["high"][j])]
        if neural is not None:
            low, middle, high = np.quantile(neural[:, j], LEVELS)
            row.append(_interval(middle, low, high))
        rows.append(row)
    head = ["parameter", "ABC"] + (["network"] if neural is not None else [])
    return "".join(
        [
            page.heading(f"Observation of {key}"),
            page.paragraph(_told(contents, done)),
            page.table(head, rows),
            page.figures([_picture(contents, done["names"], draws, neural)]),
        ]
    )


def _told(contents: RunContents, done: Mapping[str, Any]) -> str:
    """Return what both cost."""
    used = count(sum(done["simulations"].values()))
    text = (
        f"ABC-SMC by pyABC: {len(done['epsilon'])} generations, {used} simulations for this observation alone,"
        f" {duration(done['seconds'])}; its {len(done['epsilon'])}th epsilon is {done['epsilon'][-1]:.4g} and"
        f" its draws count as {done['effective_draws']:.0f} of equal weight."
    )
    if contents.latest and contents.latest.done:
        budget = contents.latest.posterior.get("provenance", {}).get("budget", 0)
        seconds = contents.latest.done.get("seconds", 0.0)
        text += f" The network: {count(budget)} simulations for all observations, {duration(seconds)} of training."
    return text + " Medians with central 95 % intervals:"


def _neural(contents: RunContents, observation: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return draws (n, D) of the latest posterior for an observation, if it can take it."""
    if contents.latest is None or not contents.latest.posterior:
        return None
    try:
        posterior = contents.latest.results.load()
        x = {name: np.asarray(values)[None] for name, values in observation.items()}
        return np.asarray(posterior.sample(x, DRAWS, seed=SEED)[0].numpy(), np.float64)
    except (PipelineError, ValueError):
        return None


def _picture(
    contents: RunContents,
    names: list[str],
    draws: Mapping[str, np.ndarray],
    neural: np.ndarray | None,
) -> tuple[str, str]:
    from evaluation import plots
    from pipeline.config import build, simulator_of

    scales = simulator_of(build(contents.config)).prior.scales
    sets = {"ABC": (on_scale(draws["theta"], scales), draws["weight"])}
    if neural is not None:
        sets["network"] = (on_scale(neural, scales), np.ones(len(neural)))
    caption = "Marginal posteriors of ABC and of the network for the same observation."
    return plots.svg(plots.marginals(sets, labels(names, scales))), caption


def _interval(middle: float, low: float, high: float) -> str:
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"
