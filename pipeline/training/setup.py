"""What a configuration asks of training, worked out against the store: rows, recipe, key, estimator."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import estimators
from estimators.network.base import FreeForm
from estimators.registry import resolve
from pipeline.config import Config
from pipeline.dataset import Batch, Order, Resident, Stream, Table, mix, validates
from pipeline.errors import UsageError
from pipeline.row_weights import MOST, prior_weights, require_quantiles
from pipeline.run import Run
from pipeline.store import Store
from pipeline.training.loop import Loop, Recipe, Team
from simulators import Prior, prior_from

DEFAULT_STEPS = 30_000
VALIDATIONS = 100  # of a training, unless `train.validate_every` says otherwise
RESIDENT_SHARE = 0.25  # of the memory, for the rows of all ranks of a machine


class Training:
    """What a configuration asks for, worked out against the store; the same on every rank.

    Raises:
        UsageError: simulations are missing, or too few rows for a batch or for validation.
    """

    def __init__(self, config: Config, run: Run) -> None:
        self.config, self.run = config, run
        self.store = Store.open(run.store("train"))
        if missing := len(self.store.missing(config.budget)):
            raise UsageError(
                f"budget={config.budget}: {missing} simulations are missing; run `sbiflow simulate`"
            )
        self.table = Table.of(self.store, config.budget, config.train.validation)
        self._check()

    def _check(self) -> None:
        train, rows = self.config.train, len(self.table.train)
        if train.batch_size > rows:
            raise UsageError(
                f"train.batch_size={train.batch_size} is more than the {rows} training rows "
                f"(budget={self.config.budget}, {len(self.table.validation)} kept for validation)"
            )
        if train.batch_size % max(train.workers, 1):
            raise UsageError(
                f"train.batch_size={train.batch_size} cannot be split evenly over "
                f"train.workers={train.workers}: use a multiple"
            )
        if len(self.table.validation) < 2:
            raise UsageError(
                f"train.validation={train.validation} of {self.config.budget} simulations leaves "
                f"{len(self.table.validation)} rows for validation; at least 2 are needed"
            )

    @cached_property
    def recipe(self) -> Recipe:
        train = self.config.train
        steps = train.steps or DEFAULT_STEPS
        if train.epochs is not None:
            steps = max(1, round(train.epochs * (len(self.table.train) // train.batch_size)))
        return Recipe(
            steps=steps,
            learning_rate=train.learning_rate or resolve(self.config.estimator.name).learning_rate,
            weight_decay=train.weight_decay,
            warmup=train.warmup,
            clip=train.clip,
            ema=train.ema,
            validate_every=train.validate_every or max(1, steps // VALIDATIONS),
            patience=train.patience,
            amp=train.amp,
            seed=self.config.seed,
        )

    @cached_property
    def digest(self) -> str:
        return self.store.digest(self.config.budget)

    @cached_property
    def key(self) -> str:
        """Name of the training: budget, estimator and a hash of all that decides the result."""
        estimator, train = self.config.estimator, self.config.train
        content = {
            "identity": self.store.identity,
            "digest": self.digest,
            "budget": self.config.budget,
            "estimator": [estimator.name, estimator.settings],
            "preprocessing": estimator.preprocessing,
            "standardisation": estimator.standardisation,
            "recipe": asdict(self.recipe),
            "batch_size": train.batch_size,
            "compile": train.compile,
            "validation": train.validation,
        }
        if self.weighted:  # keys of trainings without weights stay what they were
            content["prior_weights"] = MOST  # other functions are other weights
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        name = re.sub(r"[^\w-]", "_", estimator.name)
        return f"{self.config.budget}-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @cached_property
    def directory(self) -> Path:
        return self.run.training(self.key)

    @cached_property
    def resident(self) -> bool:
        """Whether the rows are kept in memory: up to a quarter of it for all ranks on a machine."""
        if self.config.train.in_memory is not None:
            return self.config.train.in_memory
        ranks = max(1, self.config.train.workers)
        return (
            ranks * len(self.table.train) * self.table.row_bytes <= RESIDENT_SHARE * memory_limit()
        )

    def estimator(self, sample: Batch) -> estimators.Estimator:
        """Return the untrained estimator; its first weights follow from the seed."""
        asked, bounds = self.config.estimator, self._prior()
        torch.manual_seed(mix(self.config.seed))
        try:
            model = estimators.create(
                asked.name,
                sample.theta,
                sample.x,
                low=bounds.low if bounds else None,
                high=bounds.high if bounds else None,
                names=self.store.names,
                scales=bounds.scales if bounds else None,
                preprocessing=asked.preprocessing,
                standardisation=asked.standardisation,
                **asked.settings,
            )
        except (LookupError, TypeError, ValueError) as error:
            message = error.args[0] if error.args else error
            raise UsageError(f"estimator {asked.name!r}: {message}") from error
        if self.config.train.compile:
            _compile(model, graphs=self.config.train.gpu)
        return model

    def _prior(self) -> Prior | None:
        """Return the prior that the store's parameters were drawn from, None for imported ones."""
        simulator = self.store.identity.get("simulator", {})
        spec = self.store.identity.get("prior") or simulator.get("prior")
        return prior_from(spec) if spec else None

    @cached_property
    def weighted(self) -> bool:
        """Whether rows are weighted: as asked, else where the prior has quantiles."""
        asked, prior = self.config.train.prior_weights, self._prior()
        return asked if asked is not None else prior is not None and prior.has_quantile

    @cached_property
    def weights(self) -> np.ndarray | None:
        """Weights by which low frequencies of the parameters are those of the prior, (n,), or None.

        Simulations that failed count as well: parameters whose simulations succeed need not have the prior.

        Raises:
            UsageError: weights are asked for, and the prior is not known or has no quantiles.
        """
        if not self.weighted:
            return None
        prior = require_quantiles("train.prior_weights=true", self._prior())
        ids, theta = self.store.parameters(self.config.budget)
        counted = ~validates(ids, self.table.share)
        weights = prior_weights(prior.cube(theta[counted]))
        return weights[np.searchsorted(ids[counted], self.table.train)]

    def batches(self, team: Team) -> Resident | Stream:
        train = self.config.train
        order = Order(self.config.seed, train.batch_size, team.rank, team.world, self.weights)
        if not self.resident:
            return Stream(self.table, order)
        rows = self.table.gather(self.table.train)
        fits = team.device.type == "cpu" or _fits(rows, team.device)
        return Resident(rows.to(team.device) if fits else rows, order)

    def provenance(self, loop: Loop) -> dict[str, Any]:
        """Return where a posterior comes from, as JSON."""
        return {
            "store_digest": self.digest,
            "budget": self.config.budget,
            "seed": self.config.seed,
            "config_digest": self.config.digest(),
            "training": self.key,
            "train_rows": len(self.table.train),
            "validation_rows": len(self.table.validation),
            "prior_weights": self.weighted,
            "steps": loop.step,
            "best_validation_loss": loop.best_loss,
            "git_revision": git_revision(),
            "versions": {name: _version(name) for name in ("sbiflow", "torch", "numpy")}
            | {"python": platform.python_version()},
        }

    @cached_property
    def layout(self) -> str:
        """What the order of the rows depends on beyond the key: shards matter only when streaming."""
        if self.resident:
            return "memory"
        shards = hashlib.sha256()
        for view in self.table.views:
            shards.update(view.ids.tobytes() + b"|")
        return f"shards {shards.hexdigest()[:16]}"


def _compile(model: estimators.Estimator, graphs: bool) -> None:
    """Have torch compile the free-form networks at their first pass, with `graphs` as CUDA graphs."""
    compilers = os.environ.get("CXX", "g++"), "g++", "c++", "clang++"
    if not any(map(shutil.which, compilers)):
        raise UsageError("train.compile=true needs a C++ compiler, and there is none in PATH")
    for network in model.modules():
        if isinstance(network, FreeForm):
            if graphs:
                network.forward = _graphed(network.forward)  # type: ignore[method-assign]
            else:
                network.compile()


def _graphed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return passes through CUDA graphs, which spare a small network the launch of its kernels.

    A graph leaves its answer where its next replay will leave another, and the answers of several passes
    are needed at a time: each is copied.
    """
    replay = torch.compile(forward, mode="reduce-overhead")
    return lambda *inputs: replay(*inputs).clone()


def memory_limit() -> int:
    """Return the bytes that this process may use: the machine's, or those of its control group."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
    except OSError:
        return limits[0]
    folder = Path("/sys/fs/cgroup") / group.lstrip("/")
    for place in (folder, *folder.parents):
        try:
            limits.append(int((place / "memory.max").read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits)


def _fits(rows: Batch, device: torch.device) -> bool:
    size = sum(4 * values.numel() for values in (rows.theta, *rows.x.values()))
    return size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Return the revision of the source tree this code runs from, None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
