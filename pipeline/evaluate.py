"""The evaluation stage: draws for every test simulation, the reference posterior, the metrics.

Everything random follows from `evaluate.seed`. What decides the numbers is kept beside them, so that
a repeat finds them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import estimators
import evaluation
from evaluation.scale import on_scale
from pipeline import ready_made
from pipeline.config import Config, simulator_of
from pipeline.errors import UsageError
from pipeline.held_out import HeldOut, test_store
from pipeline.progress import Progress, duration, say
from pipeline.reference import Reference, write_arrays
from pipeline.run import Run, write_whole
from pipeline.stop import Stop
from pipeline.store import Store
from pipeline.threads import threads

FORMAT = 2  # raised when equal settings would give other numbers
BLOCK = 10  # observations drawn for and timed together
PRIOR_DRAWS = 10_000
POSTERIOR_STREAM, PRIOR_STREAM = 0, 1  # of the random numbers of an evaluation
RESULT, DRAWS = "metrics.json", "draws.npz"

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Drawn:
    """Posterior draws (B, n, D) by some number of passes; seconds per 1000 draws of each block."""

    passes: int | None
    draws: np.ndarray
    seconds: np.ndarray


class Evaluation:
    """What a configuration asks of one trained posterior, worked out against the run."""

    def __init__(self, config: Config, run: Run, key: str) -> None:
        self.config, self.run, self.key = config, run, key
        self.asked = config.evaluate
        self.directory = run.training(key) / "evaluation"
        self.metrics = {name: _metric(name) for name in self.asked.metrics}
        self.simulator = simulator_of(config)
        self.reference = self._reference_name()
        folder = run.training(key) / "posterior"
        try:
            self.posterior = estimators.load(folder)
        except (OSError, ValueError, LookupError) as error:
            raise UsageError(f"no posterior to evaluate in {folder}: {error}") from error
        self.store = test_store(run, config.test)

    def _reference_name(self) -> str | None:
        valid = list(self.simulator.references)
        if self.asked.reference is None:
            return valid[0] if valid else None
        if self.asked.reference not in valid:
            raise UsageError(
                f"evaluate.reference = {self.asked.reference!r}: {self.simulator.name} has"
                f" {', '.join(valid) or 'no reference posterior'}"
            )
        return self.asked.reference

    @cached_property
    def passes(self) -> tuple[int | None, ...]:
        """The numbers of passes to try; (None,) where the estimator has no choice."""
        if self.posterior.steps is None:
            return (None,)
        asked = self.asked.passes
        return asked if isinstance(asked, tuple) else (asked,)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the numbers."""
        weights = (self.run.training(self.key) / "posterior" / "weights.pt").read_bytes()
        return {
            "format": FORMAT,
            "metrics": list(self.asked.metrics),
            "draws": self.asked.draws,
            "passes": list(self.passes),
            "reference": self.reference,
            "seed": self.asked.seed,
            "test": self.config.test,
            "test_digest": self.store.digest(self.config.test),
            "weights": hashlib.sha256(weights).hexdigest(),
        }

    def finished(self) -> dict[str, Any] | None:
        """Return the numbers of an earlier evaluation with equal settings."""
        try:
            result = json.loads((self.directory / RESULT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        same = result.get("settings") == self.settings and (self.directory / DRAWS).exists()
        return result if same else None

    def references(self, sets: HeldOut, stop: Stop) -> np.ndarray | None:
        """Draw from the reference posterior (B, n, D), if there is one and a metric wants it."""
        wanted = any("references" in evaluation.needs(metric) for metric in self.metrics.values())
        if self.reference is None or not wanted:
            return None
        asked = self.asked
        return Reference(self.config, self.reference, asked.draws, asked.seed).draws(
            self.run, self.settings["test_digest"], sets.ids, sets.x, stop
        )

    def drawn(self, sets: HeldOut, passes: int | None, progress: Progress, stop: Stop) -> Drawn:
        """Draw for every test set, or take up what an evaluation with equal settings had drawn."""
        path, settings = self.directory / f"drawn_{passes}.npz", json.dumps(self.settings)
        if path.exists():
            with np.load(path) as file:
                if str(file["settings"]) == settings:
                    progress.update(progress.done + len(sets.ids), "found")
                    return Drawn(passes, file["draws"], file["seconds"])
        with threads(self.config.train.threads):
            fresh = self.draw(sets, passes, progress, stop)
        arrays = {"draws": fresh.draws, "seconds": fresh.seconds}
        write_arrays(path, arrays | {"settings": np.array(settings)})
        return fresh

    def tidy(self) -> None:
        """Remove draws that were kept for a repeat."""
        for path in self.directory.glob("drawn_*.npz"):
            path.unlink()

    def draw(self, sets: HeldOut, passes: int | None, progress: Progress, stop: Stop) -> Drawn:
        """Draw for every test set, a block at a time, on the clock."""
        n, blocks, seconds = self.asked.draws, [], []
        self.posterior.sample({k: v[:1] for k, v in sets.inputs.items()}, 2, steps=passes, seed=0)
        for start in range(0, len(sets.ids), BLOCK):
            stop.check("evaluate")
            x = {name: values[start : start + BLOCK] for name, values in sets.inputs.items()}
            seed = _seed(self.asked.seed, POSTERIOR_STREAM, start)
            began = time.perf_counter()
            block = self.posterior.sample(x, n, steps=passes, seed=seed).cpu().numpy()
            seconds.append((time.perf_counter() - began) / len(block) / n * 1000)
            blocks.append(block)
            progress.update(progress.done + len(block), "drawing")
        return Drawn(passes, np.concatenate(blocks), np.array(seconds))

    def prior_draws(self) -> np.ndarray:
        """Return draws (n, D) from the prior; where it is not known, those that were imported are some."""
        rng = np.random.default_rng(_seed(self.asked.seed, PRIOR_STREAM, 0))
        if self.simulator.name == ready_made.NAME and self.config.prior is None:
            return ready_made.parameters(self.run, PRIOR_DRAWS, rng)
        draws: np.ndarray = self.simulator.prior.sample(rng, PRIOR_DRAWS)
        return draws

    def measure(
        self, sets: HeldOut, drawn: Drawn, references: np.ndarray | None, stop: Stop
    ) -> dict[str, Any]:
        """Return all metrics, as JSON."""
        prior = self.simulator.prior
        inputs = {
            "theta": on_scale(sets.theta, prior.scales),
            "draws": on_scale(drawn.draws, prior.scales),
            "references": None if references is None else on_scale(references, prior.scales),
            "prior": on_scale(self.prior_draws(), prior.scales),
            "seconds": drawn.seconds,
        }
        common = {"draws": self.asked.draws, "passes": drawn.passes, "n": len(sets.ids)}
        result: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            stop.check("evaluate")
            wanted = evaluation.needs(metric)
            if "references" in wanted and references is None:
                result[name] = {
                    "note": f"skipped: {self.simulator.name} has no reference posterior"
                }
                continue
            value = _apply(name, metric, {key: inputs[key] for key in wanted}, stop)
            result[name] = _record(value) | common
            if "references" in wanted:
                result[name]["reference"] = self.reference
        return result


def evaluate(
    config: Config, run: Run, *, stop: Stop, log: Log | None = None, key: str | None = None
) -> dict[str, Any]:
    """Measure a trained posterior on the test simulations, or find it measured.

    Args:
        config: the whole configuration.
        run: the run directory.
        stop: request to leave; a repeat takes up the draws that are finished.
        log: takes the event for the journal.
        key: which training; none: the latest.

    Returns:
        What is written to `evaluation/metrics.json`; see `docs/metrics.md`.

    Raises:
        UsageError: no training, no test simulations, unknown metric or reference.
        PipelineError: the reference posterior cannot be drawn from.
        Stopped: a stop was requested.
    """
    work = Evaluation(config, run, key or run.latest)
    if (known := work.finished()) is not None:
        say(f"evaluate: {work.key} is done")
        return known
    began = time.monotonic()
    sets = HeldOut.read(work.store, config.test, work.posterior.x_shapes)
    references = work.references(sets, stop)
    results, arrays = [], {"ids": sets.ids, "theta": sets.theta}
    with Progress("evaluate", len(sets.ids) * len(work.passes), "test sets") as progress:
        drawn = [work.drawn(sets, passes, progress, stop) for passes in work.passes]
    for one in drawn:
        results.append(work.measure(sets, one, references, stop))
        arrays[f"draws_{one.passes}"] = one.draws
    headline, *others = results
    provenance = work.posterior.provenance
    result = {
        "metrics": headline,
        "sweep": [
            {"passes": one.passes, "metrics": metrics}
            for one, metrics in zip(drawn[1:], others, strict=True)
        ],
        "failed_share": _shares(config, run, provenance.get("budget", config.budget)),
        "posterior": {
            "key": work.key,
            "estimator": work.posterior.estimator,
            "names": list(work.posterior.names),
            "scales": list(work.simulator.prior.scales),
            "budget": provenance.get("budget"),
            "digest": provenance.get("store_digest"),
        },
        "settings": work.settings,
        "seconds": round(time.monotonic() - began, 3),
    }
    result = _finite(result)
    if references is not None:
        arrays["references"] = references
    write_arrays(work.directory / DRAWS, arrays)
    write_whole(work.directory / RESULT, json.dumps(result, indent=1, allow_nan=False))
    work.tidy()
    say(f"evaluate: {work.key}, {duration(result['seconds'])}")
    if log:
        shown = {str(one.passes): numbers(m) for one, m in zip(drawn, results, strict=True)}
        log(
            {
                "event": "evaluated",
                "training": work.key,
                "passes": shown,
                "seconds": result["seconds"],
            }
        )
    return result


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of evaluated metrics with dotted names, e.g. `c2st.mean`."""
    common = ("draws", "passes", "n")
    return {
        f"{name}.{key}": float(value)
        for name, record in metrics.items()
        for key, value in record.items()
        if key not in common and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _metric(name: str) -> Callable[..., Any]:
    try:
        return evaluation.load(name)
    except (LookupError, TypeError) as error:
        raise UsageError(f"evaluate.metrics: {error.args[0]}") from error


def _apply(name: str, metric: Callable[..., Any], inputs: Mapping[str, Any], stop: Stop) -> Any:
    """Call a metric; a slow one shows its progress and heeds a stop."""
    if "tick" not in inspect.signature(metric).parameters:
        return metric(**inputs)
    sets = len(inputs["draws"])
    with Progress(f"evaluate {name}", sets, "test sets") as progress:

        def tick(done: int) -> None:
            stop.check("evaluate")
            progress.update(done)

        value = metric(**inputs, tick=tick)
        progress.update(sets)
    return value


def _record(value: Any) -> dict[str, Any]:
    """Return what a metric gave as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        fields = {"mean": value}
    return {
        k: v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in fields.items()
    }


def _finite(value: Any) -> Any:
    """Replace NaN and Inf by None, which JSON can say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shares(config: Config, run: Run, budget: int) -> dict[str, Any]:
    """Return for each stream how many simulations are not ok: they are in no number above."""
    shares = {}
    for stream, size in (("train", budget), ("test", config.test)):
        counts = Store.open(run.store(stream)).counts(size)
        bad = counts["failed"] + counts["timeout"] + counts["invalid"]
        shares[stream] = {**counts, "share": bad / max(counts["done"], 1)}
    return shares


def _seed(seed: int, *key: int) -> int:
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
