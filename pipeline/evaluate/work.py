"""One evaluation: what it needs, its blocks of work, and its metrics.

All random numbers follow from `evaluate.seed`.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

import evaluation
from evaluation.scale import on_scale
from evaluation.score import Tick
from pipeline.config import IMPORTED, Config, simulator_of
from pipeline.errors import DamagedError, UsageError
from pipeline.evaluate.blocks import Blocks, TestBlock
from pipeline.evaluate.draws import Draws, chunks_of, fits, told
from pipeline.evaluate.metric import apply, as_json, metric_of
from pipeline.evaluate.recalibration import recalibrate
from pipeline.evaluate.reference import WHAT, Reference
from pipeline.evaluate.simulations import TestSimulations, open_test_store
from pipeline.imported.stage import parameters
from pipeline.progress import log
from pipeline.results import DRAWS, Results, advising
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store.observation import Observation
from pipeline.streams import EvaluationStream
from pipeline.train.device import device
from pipeline.train.threads import threads

FORMAT = 3  # raised when equal settings would give other numbers
QUICK = "quick"  # name of the blocks of all metrics that take no time
BLOCKS = (
    3  # format of the blocks: those of an interrupted evaluation of another format are not used
)
DENSITIES = 200  # draws of a test set at which a log-density is computed
PRIOR_DRAWS = 10_000
CACHE = "cache"  # folder of the run for what metrics use again


class Evaluation:
    """The evaluation of one trained posterior.

    Arguments:
        config: the whole configuration.
        run: the run directory.
        key: of the training.

    Raises:
        UsageError: no posterior, no test simulations, unknown metric or reference.
    """

    def __init__(self, config: Config, run: RunDirectory, key: str) -> None:
        self.config, self.run, self.key = config, run, key
        self.asked = config.evaluate
        self.results = Results(run, key)
        self.directory = self.results.folder / "evaluation"
        self.metrics = {name: metric_of(name) for name in self.asked.metrics}
        self.simulator = simulator_of(config)
        self.reference = self._reference_name()
        self.device = device("evaluate.device", self.asked.device)
        with advising(run, "train"):
            self.posterior = self.results.load(self.device)
        self.store = open_test_store(run, config.test)
        if self.asked.calibrated:
            recalibrate(config, run, self.results, self.posterior, self.sampling_steps)
        self._warm: set[int | None] = set()

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
            self.mend()
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

    @cached_property
    def references(self) -> Reference | None:
        """Draws of the reference posterior, if there is one and a metric needs it."""
        if self.reference is None or "references" not in self.needed:
            return None
        digest = self.settings["test_digest"]
        return Reference(self.config, self.run, self.reference, digest, self.sets)

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
        settings = json.dumps(self.settings | {"blocks": BLOCKS})
        return Blocks(self.directory / "blocks", settings)

    def draws(self, steps: int | None) -> Draws:
        """Return where the draws of all test sets are while they are measured."""
        return Draws(self.blocks, chunks_of(self.results, steps), "drawn", steps, self.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (B, n, D) of all draws."""
        return len(self.sets.ids), self.asked.draws, len(self.posterior.names)

    def parts(self, what: str, steps: int | None) -> list[TestBlock]:
        """Return the blocks of all test sets."""
        return [replace(part, what=what) for part in self.draws(steps).parts]

    def is_done(self, block: TestBlock) -> bool:
        """Return whether a block is finished."""
        blocks = self.blocks
        if block.what == WHAT:
            assert self.references is not None
            blocks = self.references.draws.blocks
        return blocks.find(block) is not None

    def do(self, block: TestBlock, tick: Tick | None = None) -> None:
        """Draw or measure for the test sets of a block, and keep the result."""
        with threads(self.config.train.threads):
            if block.what == WHAT:
                assert self.references is not None
                self.references.do(block, tick)
            elif block.what == "drawn":
                self._draw(block)
            else:
                self.blocks.keep(block, self._measured(block, tick))

    def _draw(self, block: TestBlock) -> None:
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
        more = {"seconds": np.array(seconds)} | self._log_probs(block, x, draws)
        self.draws(block.steps).keep(block, draws, more)

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
            parts = stream.parts(**{key: given[key] for key in asked[name] if key in given})
            found |= {f"{name}/{key}": value for key, value in parts.items()}
        return found

    def _of_block(self, block: TestBlock, names: set[str]) -> dict[str, Any]:
        """Return the arrays of some names for the test sets of a block."""
        theta = on_scale(self.sets.theta, self.scales)
        given: dict[str, Any] = {"theta": theta[block.rows], "all_theta": theta}
        given |= {"rows": block.rows, "device": self.device}
        if "draws" in names:
            given["draws"] = on_scale(self._drawn(block), self.scales)
        if "prior" in names:
            given["prior"] = self.prior
        if "x" in names:
            given["x"] = self.sets.flat[block.rows]
        if "references" in names:
            assert self.references is not None
            given["references"] = on_scale(self.references.read(block), self.scales)
        return given

    def _drawn(self, block: TestBlock) -> np.ndarray:
        """Return all draws of a block; damaged ones are drawn anew."""
        draws = self.draws(block.steps)
        try:
            return draws.read(block)
        except DamagedError as error:
            told(error)
            self._draw(replace(block, what="drawn"))
            return draws.read(block)

    def prepare(self) -> None:
        """Make the arrays of a large evaluation, before any process writes into them."""
        for steps in self.sampling_steps:
            self.draws(steps).prepare()

    def mend(self) -> None:
        """Draw the damaged chunks of a finished evaluation anew.

        Raises:
            DamagedError: what is drawn now is not what was measured.
        """
        kept = self.results.draws() or {}
        for steps in self.sampling_steps:
            if (digests := kept.get(f"chunks_{steps}")) is None:
                continue
            chunks = chunks_of(self.results, steps)
            bad = chunks.damaged(digests)
            for number in bad:
                log(f"evaluate: {chunks.path}, chunk {number} is damaged; drawn anew")
                with threads(self.config.train.threads):
                    self._draw(self.parts("drawn", steps)[number])
            if bad:
                self.blocks.remove()
            if bad and chunks.damaged(digests):
                raise DamagedError(f"{chunks.path}: what is drawn now is not what was measured")

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
        at_once = {"draws", "references"} & set(wanted) and not hasattr(metric, "stream")
        if at_once and not fits(self.shape):
            return "skipped: it needs all draws in memory, and they are too many"
        return ""

    def measure(self, steps: int | None, stop: Stop) -> dict[str, Any]:
        """Return all metrics of drawn test sets, as JSON; those of blocks are joined."""
        common = {"draws": self.asked.draws, "sampling_steps": steps, "n": len(self.sets.ids)}
        quick = self._joined(QUICK, steps) if self.quick() else {}
        result: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            stop.check("evaluate")
            if note := self._lacking(metric):
                result[name] = {"note": note}
                continue
            try:
                result[name] = as_json(self._value(name, steps, quick, stop)) | common
            except ValueError as error:  # too few test sets, or too few parameters
                result[name] = {"note": f"not measured: {error}"}
                continue
            if "references" in evaluation.needs(metric):
                result[name]["reference"] = self.reference
        return result

    def _value(self, name: str, steps: int | None, quick: dict[str, np.ndarray], stop: Stop) -> Any:
        """Return a metric, of one that is measured in blocks from what they hold."""
        metric = self.metrics[name]
        if stream := getattr(metric, "stream", None):
            joined = self._joined(name, steps) if stream.dear else quick
            head = f"{name}/"
            parts = {k.removeprefix(head): v for k, v in joined.items() if k.startswith(head)}
            return stream.join(parts, self.asked.draws, self.prior)
        given = {key: self._whole(key, steps) for key in evaluation.needs(metric)}
        if "cache" in inspect.signature(metric).parameters:
            given["cache"] = self.run.path / CACHE
        return apply(name, metric, given, stop)

    def _joined(self, what: str, steps: int | None) -> dict[str, np.ndarray]:
        """Return what was measured on all test sets, from its blocks."""
        found = [self.blocks.find(block) for block in self.parts(what, steps)]
        parts = [part for part in found if part is not None]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _whole(self, name: str, steps: int | None) -> Any:
        """Return an array of all test sets that metrics can ask for."""
        if name == "theta":
            return on_scale(self.sets.theta, self.scales)
        if name in ("prior", "x"):
            return self.prior if name == "prior" else self.sets.flat
        draws = self.draws(steps)
        if name == "draws" and draws.large:
            return np.concatenate([self._of_block(part, {name})[name] for part in draws.parts])
        if name == "draws":
            return on_scale(draws.joined()[name], self.scales)
        if name == "references":
            assert self.references is not None
            parts = [self.references.read(part) for part in draws.parts]
            return on_scale(np.concatenate(parts), self.scales)
        return draws.joined()[name]


def _seed(seed: int, *key: int) -> int:
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
