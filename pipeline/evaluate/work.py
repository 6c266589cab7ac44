"""One evaluation: what it needs, its blocks of work, and its metrics.

All random numbers follow from `evaluate.seed`.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import evaluation
from evaluation.scale import on_scale
from evaluation.score import Tick
from pipeline.config import IMPORTED, Config, simulator_of
from pipeline.errors import DamagedError, UsageError
from pipeline.evaluate.blocks import SETS, Blocks, TestBlock
from pipeline.evaluate.metric import apply, as_json, metric_of
from pipeline.evaluate.recalibration import recalibrate
from pipeline.evaluate.reference import Reference
from pipeline.evaluate.simulations import TestSimulations, open_test_store
from pipeline.imported.stage import parameters
from pipeline.progress import log
from pipeline.results import DRAWS, Results, advising
from pipeline.run import Run
from pipeline.stop import Stop
from pipeline.store.chunks import ChunkedArray
from pipeline.store.observation import Observation
from pipeline.streams import EvaluationStream
from pipeline.train.device import device
from pipeline.train.setup import memory_limit
from pipeline.train.threads import threads

FORMAT = 3  # raised when equal settings would give other numbers
QUICK = "quick"  # name of the blocks of all metrics that take no time
LARGE = 512 << 20  # bytes of draws, from which on they are kept in chunks
SHARE = 0.125  # of the memory, which draws may take where a metric needs all of them at once
SHOWN = 500  # draws of a test set that are also in `draws.npz` then
DENSITIES = 200  # draws of a test set at which a log-density is computed
PRIOR_DRAWS = 10_000
CACHE = "cache"  # folder of the run for what metrics use again


@dataclass(frozen=True)
class Drawn:
    """Posterior draws of all test sets.

    Attributes:
        sampling_steps: network passes of one draw; None where the estimator has no choice.
        draws: shape (B, n, D).
        seconds: wall seconds per 1000 draws of one observation, for each block of observations.
        densities: log-density at the truth (B,) and at some draws (B, k), where a metric needs them.
    """

    sampling_steps: int | None
    draws: np.ndarray
    seconds: np.ndarray
    densities: dict[str, np.ndarray]


class Evaluation:
    """The evaluation of one trained posterior.

    Arguments:
        config: the whole configuration.
        run: the run directory.
        key: of the training.

    Raises:
        UsageError: no posterior, no test simulations, unknown metric or reference.
    """

    def __init__(self, config: Config, run: Run, key: str) -> None:
        self.config, self.run, self.key = config, run, key
        self.asked = config.evaluate
        self.results = Results(run, key)
        self.directory = self.results.folder / "evaluation"
        self.metrics = {name: metric_of(name) for name in self.asked.metrics}
        self.simulator = simulator_of(config)
        self.reference = self._reference_name()
        with advising(run, "train"):
            self.posterior = self.results.load(device("evaluate.gpu", self.asked.gpu))
        self.store = open_test_store(run, config.test)
        if self.asked.calibrated:
            recalibrate(config, run, self.results, self.posterior, self.sampling_steps)
        self._warm: set[int | None] = set()
        self._references: np.ndarray | None = None

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
    def sampling_steps(self) -> tuple[int | None, ...]:
        """The numbers of sampling steps to measure; (None,) where the estimator has no choice."""
        if self.posterior.sampling_steps is None:
            return (None,)
        return self.asked.all_sampling_steps

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the metrics."""
        settings = {
            "format": FORMAT,
            "metrics": list(self.asked.metrics),
            "draws": self.asked.draws,
            "sampling_steps": list(self.sampling_steps),
            "reference": self.reference,
            "seed": self.asked.seed,
            "test": self.config.test,
            "test_digest": self.store.digest(self.config.test),
            "weights": self.results.weights_digest(),
        }
        held = self.posterior.recalibration
        if not self.asked.calibrated or held is None:
            return settings
        return settings | {"calibrated": {"rows": held.rows, "count": held.count}}

    def finished(self) -> dict[str, Any] | None:
        """Return the metrics of an earlier evaluation with equal settings, None if there are no intact ones."""
        try:
            result = self.results.evaluated()
            if result is None or result["settings"] != self.settings:
                return None
            if self.results.draws() is None:
                raise DamagedError(f"{self.results.folder / DRAWS} is missing")
            return result
        except DamagedError as error:
            log(f"evaluate: {error}; measures anew")
            return None

    @cached_property
    def needed(self) -> set[str]:
        """The arrays that the metrics need."""
        return {name for metric in self.metrics.values() for name in evaluation.needs(metric)}

    @cached_property
    def has_log_prob(self) -> bool:
        """Whether the posterior has a density."""
        return bool(self.posterior.module.has_log_prob)

    def references(self, stop: Stop) -> np.ndarray | None:
        """Return draws of the reference posterior (B, n, D), if there is one and a metric needs it."""
        if self.reference is None or "references" not in self.needed:
            return None
        if self._references is None:
            asked, sets = self.asked, self.sets
            self._references = Reference(
                self.config, self.reference, asked.draws, asked.seed
            ).draws(self.run, self.settings["test_digest"], sets.ids, sets.x, stop)
        return self._references

    @cached_property
    def sets(self) -> TestSimulations:
        """The test simulations, each observed once."""
        observation = Observation.of(self.simulator, self.store.identity)
        shapes = self.posterior.x_shapes
        return TestSimulations.read(self.store, self.config.test, shapes, observation)

    @cached_property
    def scales(self) -> tuple[str, ...]:
        """The scale on which each parameter is measured."""
        return tuple(self.simulator.prior.scales)

    @cached_property
    def blocks(self) -> Blocks:
        """What is finished of this evaluation, of one that was interrupted too."""
        return Blocks(self.directory / "blocks", json.dumps(self.settings))

    def parts(self, what: str, steps: int | None) -> list[TestBlock]:
        """Return the blocks of all test sets."""
        return [TestBlock(what, steps, start) for start in range(0, len(self.sets.ids), SETS)]

    def do(self, block: TestBlock, tick: Tick | None = None) -> None:
        """Draw or measure for the test sets of a block, and keep the result."""
        with threads(self.config.train.threads):
            arrays = self._draw(block) if block.what == "drawn" else self._measured(block, tick)
        self.blocks.keep(block, arrays)

    def _draw(self, block: TestBlock) -> dict[str, np.ndarray]:
        """Draw for the test sets of a block together, and measure the time."""
        x = {name: values[block.rows] for name, values in self.sets.inputs.items()}
        if block.steps not in self._warm:  # the first pass is slower
            one = {name: values[:1] for name, values in x.items()}
            self.posterior.sample(one, 2, sampling_steps=block.steps, seed=0)
            self._warm.add(block.steps)
        seed, n = _seed(self.asked.seed, EvaluationStream.POSTERIOR, block.start), self.asked.draws
        began = time.perf_counter()
        draws = self._sampled(x, len(self.sets.ids[block.rows]), n, block.steps, seed)
        seconds = (time.perf_counter() - began) / len(draws) / n * 1000
        told = {"seconds": np.array(seconds)} | self._log_probs(block, x, draws)
        if not self.large:
            return told | {"draws": draws}
        digest = self.chunks(block.steps).write(block.start, draws)
        return told | {"draws": draws[:, :SHOWN], "digest": np.array(digest)}

    def _sampled(
        self, x: dict[str, np.ndarray], count: int, n: int, steps: int | None, seed: int
    ) -> np.ndarray:
        """Return draws (count, n, D); without observations they are those of the prior."""
        each = n if x else count * n
        calibrated = self.asked.calibrated
        draws = self.posterior.sample(
            x, each, sampling_steps=steps, seed=seed, calibrated=calibrated
        )
        return draws.view(count, n, -1).cpu().numpy()

    def _log_probs(
        self, block: TestBlock, x: dict[str, np.ndarray], draws: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the log-density at the truth and at some draws, where a metric needs it and there is one."""
        if "log_prob" not in self.needed or not self.has_log_prob:
            return {}
        theta = np.concatenate([self.sets.theta[block.rows, None], draws[:, :DENSITIES]], axis=1)
        values = self.posterior.log_prob(theta, x).cpu().numpy().astype(np.float64)
        return {"log_prob": values[:, 0], "log_prob_draws": values[:, 1:]}

    def _measured(self, block: TestBlock, tick: Tick | None = None) -> dict[str, np.ndarray]:
        """Return what a metric needs of the test sets of a block; of all quick ones together."""
        names = [block.what] if block.what != QUICK else self.quick()
        streams = {name: self.metrics[name].stream for name in names}  # type: ignore[attr-defined]
        asked = {n: inspect.signature(s.parts).parameters for n, s in streams.items()}
        given = self._of_block(block, {key for keys in asked.values() for key in keys})
        given["tick"] = tick
        found: dict[str, np.ndarray] = {}
        for name, stream in streams.items():
            parts = stream.parts(**{key: given[key] for key in asked[name]})
            found |= {f"{name}/{key}": value for key, value in parts.items()}
        return found

    def _of_block(self, block: TestBlock, names: set[str]) -> dict[str, Any]:
        """Return the arrays of some names for the test sets of a block."""
        given: dict[str, Any] = {"theta": on_scale(self.sets.theta[block.rows], self.scales)}
        if "draws" in names:
            given["draws"] = on_scale(self._drawn(block), self.scales)
        if "prior" in names:
            given["prior"] = self.prior
        if "references" in names:
            references = self.references(Stop())
            assert references is not None
            given["references"] = on_scale(references[block.rows], self.scales)
        return given

    def _drawn(self, block: TestBlock) -> np.ndarray:
        """Return all draws of a block."""
        found = self.blocks.find(TestBlock("drawn", *block.of))
        assert found is not None
        if not self.large:
            return found["draws"]
        rows = len(found["draws"])
        return self.chunks(block.steps).read(block.start, rows, str(found["digest"]))

    @cached_property
    def large(self) -> bool:
        """Whether the draws are kept in chunks, and in memory a block at a time only."""
        shape = len(self.sets.ids), self.asked.draws, len(self.posterior.names)
        size = 4 * math.prod(shape)
        drawing = [m for m in self.metrics.values() if "draws" in evaluation.needs(m)]
        streamed = all(hasattr(metric, "stream") for metric in drawing)
        return size > LARGE and (streamed or size > SHARE * memory_limit())

    def chunks(self, steps: int | None) -> ChunkedArray:
        """Return where the draws of a large evaluation are."""
        return ChunkedArray(self.directory / f"draws_{steps}.zarr")

    def prepare(self) -> None:
        """Make the arrays of a large evaluation, before any process writes into them."""
        if self.large:
            self.directory.mkdir(parents=True, exist_ok=True)
            shape = len(self.sets.ids), self.asked.draws, len(self.posterior.names)
            for steps in self.sampling_steps:
                self.chunks(steps).create(shape, SETS)

    def drawn(self, steps: int | None) -> Drawn:
        """Return the draws of all test sets, whose blocks are finished."""
        found = [self.blocks.find(block) for block in self.parts("drawn", steps)]
        parts = [part for part in found if part is not None]
        densities: dict[str, np.ndarray] = {
            name: np.concatenate([part[name] for part in parts])
            for name in ("log_prob", "log_prob_draws")
            if name in parts[0]
        }
        draws = np.concatenate([part["draws"] for part in parts])
        return Drawn(steps, draws, np.array([part["seconds"] for part in parts]), densities)

    @cached_property
    def prior(self) -> np.ndarray:
        """Draws of the prior, on the scale of the parameters."""
        return on_scale(self.prior_draws(), self.scales)

    def prior_draws(self) -> np.ndarray:
        """Return draws (n, D) from the prior; where it is not known, imported parameters stand for them."""
        rng = np.random.default_rng(_seed(self.asked.seed, EvaluationStream.PRIOR, 0))
        if self.simulator.name == IMPORTED and self.config.prior is None:
            return parameters(self.run, PRIOR_DRAWS, rng)
        draws: np.ndarray = self.simulator.prior.sample(rng, PRIOR_DRAWS)
        return draws

    def dear(self) -> list[str]:
        """Return the metrics whose blocks are work of their own, where all is there that they need."""
        return [name for name in self.metrics if self._streamed(name, dear=True)]

    def quick(self) -> list[str]:
        """Return the metrics that are measured together, block by block."""
        return [name for name in self.metrics if self._streamed(name, dear=False)]

    def _streamed(self, name: str, dear: bool) -> bool:
        metric = self.metrics[name]
        stream = getattr(metric, "stream", None)
        return stream is not None and stream.dear == dear and not self._lacking(metric)

    def _lacking(self, metric: Callable[..., Any]) -> str:
        """Return why a metric cannot be measured, "" if it can."""
        wanted = evaluation.needs(metric)
        if "references" in wanted and self.reference is None:
            return f"skipped: {self.simulator.name} has no reference posterior"
        if {"log_prob", "log_prob_draws"} & set(wanted) and not self.has_log_prob:
            return f"skipped: {self.posterior.estimator} has no density"
        if self.large and "draws" in wanted and not hasattr(metric, "stream"):
            return "skipped: it needs all draws in memory, and they are too many"
        return ""

    def measure(self, drawn: Drawn, stop: Stop) -> dict[str, Any]:
        """Return all metrics, as JSON; those of blocks are joined."""
        inputs = self._inputs(drawn, stop)
        common = {
            "draws": self.asked.draws,
            "sampling_steps": drawn.sampling_steps,
            "n": len(self.sets.ids),
        }
        result: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            stop.check("evaluate")
            if note := self._lacking(metric):
                result[name] = {"note": note}
                continue
            wanted = evaluation.needs(metric)
            if stream := getattr(metric, "stream", None):
                what = name if stream.dear else QUICK
                parts = self._joined(what, name, drawn.sampling_steps)
                value = stream.join(parts, self.asked.draws, inputs["prior"])
            else:
                given: dict[str, Any] = {key: inputs[key] for key in wanted}
                if "cache" in inspect.signature(metric).parameters:
                    given["cache"] = self.run.path / CACHE
                value = apply(name, metric, given, stop)
            result[name] = as_json(value) | common
            if "references" in wanted:
                result[name]["reference"] = self.reference
        return result

    def _joined(self, what: str, name: str, steps: int | None) -> dict[str, np.ndarray]:
        """Return what a metric needs of all test sets, from its blocks."""
        found = [self.blocks.find(block) for block in self.parts(what, steps)]
        parts = [part for part in found if part is not None]
        keys = [key for key in parts[0] if key.startswith(f"{name}/")]
        return {
            key.removeprefix(f"{name}/"): np.concatenate([part[key] for part in parts])
            for key in keys
        }

    def _inputs(self, drawn: Drawn, stop: Stop) -> dict[str, Any]:
        """Return the arrays that metrics can ask for."""
        references = self.references(stop)
        return {
            "theta": on_scale(self.sets.theta, self.scales),
            "draws": on_scale(drawn.draws, self.scales),
            "references": None if references is None else on_scale(references, self.scales),
            "prior": self.prior,
            "seconds": drawn.seconds,
            **drawn.densities,
        }


def _seed(seed: int, *key: int) -> int:
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
