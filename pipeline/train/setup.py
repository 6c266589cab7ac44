"""A training as the configuration and the store define it: rows, hyperparameters, key, estimator."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
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
from estimators.registry import FORMER_NAMES, resolve
from pipeline.config import Config, digest, simulator_of
from pipeline.errors import UsageError
from pipeline.files import canonical
from pipeline.results import Results
from pipeline.run import RunDirectory
from pipeline.store import Store
from pipeline.store.observation import PROPOSAL, Observation
from pipeline.train.automatic import decided
from pipeline.train.batches import Order, ResidentBatches, StreamedBatches, times
from pipeline.train.dataset import Batch, Table, mix
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.observed_batches import ObservedBatches
from pipeline.train.ranks import Ranks
from pipeline.train.row_weights import MOST
from pipeline.train.validation import shortest_interval
from pipeline.train.weighted_rows import by_prior, by_proposal
from simulators import Prior, prior_from
from simulators.observation import Observe
from simulators.registry import load_augmentation

DEFAULT_STEPS = 30_000
VALIDATIONS = 100  # of a training, unless `train.validate_every` says otherwise
MOST_WEIGHTED = 1 << 23  # more rows are neither weighted nor held in memory
RESIDENT_BYTES = 256 << 20  # of rows that are kept in memory; more are streamed
RESIDENT_SHARE = 0.25  # of the memory, for the rows of all ranks of a machine


class Training:
    """A training as the configuration and the store define it; the same on every rank.

    Arguments:
        config: the whole configuration.
        run: the run directory; its training store holds the budget.

    Raises:
        UsageError: simulations are missing, or too few rows for a batch or for validation.
    """

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config, self.run = config, run
        self.store = Store.open(run.store("train")).snapshot()  # the digest is that of these rows
        if missing := len(self.store.absent(config.budget)):
            raise UsageError(
                f"budget={config.budget}: {missing} simulations are missing; run `sbiflow simulate`"
            )
        self.table = Table.of(
            self.store, config.budget, config.train.validation, self._observation()
        )
        check_rows(config, self.table.train_rows, self.table.validation_rows)
        shape = self.prior.shape if self.prior else (self.table.parameters,)
        self.config = decided(config, shape, self.table.shapes_with_masks)

    def _observation(self) -> Observation | None:
        """Return how rows are observed; None where they are as they are kept."""
        return Observation.of(
            simulator_of(self.config), self.store.identity, augmentation_of(self.config)
        )

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """How the training is optimised, with all defaults replaced by numbers."""
        train = self.config.train
        steps = train.steps or DEFAULT_STEPS
        if train.epochs is not None:
            steps = max(1, round(train.epochs * (self.table.train_rows // train.batch_size)))
        return Hyperparameters(
            steps=steps,
            learning_rate=train.learning_rate or resolve(self.config.estimator.name).learning_rate,
            weight_decay=train.weight_decay,
            warmup=train.warmup,
            clip=train.clip,
            ema=train.ema,
            validate_every=train.validate_every
            or max(
                steps // VALIDATIONS, shortest_interval(self.table.parameters, train.batch_size)
            ),
            patience=train.patience,
            amp=train.amp,
            seed=self.config.seed,
            accumulate=train.accumulate,
        )

    @cached_property
    def digest(self) -> str:
        """Digest of the training simulations."""
        return self.store.digest(self.config.budget)

    @cached_property
    def key(self) -> str:
        """Name of the training: budget, estimator, and a hash of everything that determines the result."""
        estimator, train = self.config.estimator, self.config.train
        hyperparameters = asdict(self.hyperparameters)
        if hyperparameters["accumulate"] == 1:  # keys of trainings in one part stay what they were
            del hyperparameters["accumulate"]
        content = {
            "identity": self.store.identity,
            "digest": self.digest,
            "budget": self.config.budget,
            "estimator": [estimator.name, _hashed(estimator.settings)],
            "preprocessing": estimator.preprocessing,
            "standardisation": estimator.standardisation,
            "recipe": hyperparameters,
            "batch_size": train.batch_size,
            "compile": train.compile,
            "validation": train.validation,
        }
        if estimator.grouping != "array":  # keys of trainings by default stay what they were
            content["grouping"] = estimator.grouping
        if train.augmentation:
            content["augmentation"] = train.augmentation
        if self.proposed and self.weighted:
            content["importance_weights"] = True
        elif self.weighted:  # keys of trainings without weights stay what they were
            content["prior_weights"] = MOST  # another number of functions gives other weights
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        name = re.sub(r"[^\w-]", "_", estimator.name)
        return f"{self.config.budget}-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @cached_property
    def directory(self) -> Path:
        """The folder of the training."""
        return self.run.training(self.key)

    @cached_property
    def resident(self) -> bool:
        """Whether the rows are held in memory: up to `RESIDENT_BYTES`, and a quarter of the memory."""
        if self.config.train.in_memory is not None:
            return self.config.train.in_memory
        ranks, rows = max(1, self.config.train.workers), self.table.train_rows
        size = rows * self.table.row_bytes
        few = rows <= MOST_WEIGHTED and size <= RESIDENT_BYTES
        return few and ranks * size <= RESIDENT_SHARE * memory_limit()

    def estimator(self, sample: Batch) -> estimators.Estimator:
        """Return the untrained estimator; its first weights broadcast from the seed."""
        torch.manual_seed(mix(self.config.seed))
        model = build(self.config, self.prior, self.store.names, sample)
        if self.config.train.compile:
            _compile(model, graphs=self.config.train.gpu)
        return model

    @cached_property
    def prior(self) -> Prior | None:
        """The prior that the store's parameters were drawn from, None for imported ones of which it is not known.

        It is the configured simulator's, which may have one of a class of its own.
        """
        simulator = self.store.identity.get("simulator", {})
        spec = self.store.identity.get("prior") or simulator.get("prior")
        if not spec:
            return None
        own = simulator_of(self.config).prior
        return own if canonical(own.identity()) == canonical(spec) else prior_from(spec)

    @property
    def proposed(self) -> bool:
        """Whether the parameters follow proposals whose densities are kept, instead of the prior."""
        return PROPOSAL in self.table.kept_outputs

    @cached_property
    def weightable(self) -> bool:
        """Whether rows are to be weighted by the prior: as asked, else where it has quantiles."""
        asked, prior = self.config.train.prior_weights, self.prior
        known = self.proposed or (prior is not None and prior.has_quantile)
        return asked if asked is not None else known

    @property
    def weighted(self) -> bool:
        """Whether rows are weighted; very many are not, since their sampling error is negligible."""
        return self.weightable and (self.proposed or self.config.budget <= MOST_WEIGHTED)

    @cached_property
    def weights(self) -> np.ndarray | None:
        """Weights by which the training rows follow the prior, shape (n,); None: equal weights.

        They are p / q where the density q of a proposal is kept with each row, else those by which low-order
        cosine moments of theta match. These are computed with the failed simulations: the parameters of successful
        ones alone do not follow the prior.

        Raises:
            UsageError: weights are needed, and the prior is not known or has no quantiles or density.
        """
        if not self.weighted:
            return None
        if self.proposed:
            return by_proposal(self.table, self.prior, self.table.train)
        return by_prior(self.store, self.config.budget, self.table, self.prior)

    def validation_batch(self) -> Batch:
        """Return the first validation rows, each as often as its weight says."""
        batch = self.table.validation_batch()
        if not (self.proposed and self.weighted):
            return batch
        ids = self.table.validation[: len(batch.theta)]
        weights = by_proposal(self.table, self.prior, ids)
        return batch.take(torch.from_numpy(np.repeat(np.arange(len(weights)), times(weights, 0))))

    def batches(self, ranks: Ranks) -> ResidentBatches | StreamedBatches | ObservedBatches:
        """Return the batches of this rank."""
        train = self.config.train
        order = Order(self.config.seed, train.batch_size, ranks.rank, ranks.world, self.weights)
        if not self.resident:
            return StreamedBatches(self.table, order)
        if self.table.observation is not None:
            return ObservedBatches(self.table, order)
        rows = self.table.gather(self.table.train)
        fits = ranks.device.type == "cpu" or _fits(rows, ranks.device)
        return ResidentBatches(rows.to(ranks.device) if fits else rows, order)

    def provenance(self, loop: Loop) -> dict[str, Any]:
        """Return where a posterior comes from, as JSON."""
        return {
            "store_digest": self.digest,
            "budget": self.config.budget,
            "seed": self.config.seed,
            "config_digest": digest(Results(self.run, self.key).config() or self.config.plain()),
            "training": self.key,
            "train_rows": self.table.train_rows,
            "validation_rows": self.table.validation_rows,
            "prior_weights": self.weighted,
            **({} if self.weighted == self.weightable else {"most_weighted_rows": MOST_WEIGHTED}),
            "steps": loop.step,
            "best_validation_loss": loop.best_loss,
            "git_revision": git_revision(),
            "versions": {name: _version(name) for name in ("sbiflow", "torch", "numpy")}
            | {"python": platform.python_version()},
        }

    @cached_property
    def layout(self) -> str:
        """What the order of the rows depends on beside the key: on the shards, if rows are read from them."""
        if self.resident:
            return "memory"
        shards = hashlib.sha256()
        for view in self.table.views:
            shards.update(view.ids.tobytes() + b"|")
        return f"shards {shards.hexdigest()[:16]}"


def augmentation_of(config: Config) -> Observe | None:
    """Return the configured augmentation of outputs, None where there is none."""
    name = config.train.augmentation
    if name is None:
        return None
    try:
        return load_augmentation(name)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"train.augmentation: {error.args[0]}") from None


def _hashed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return an estimator's arguments by the names that keys are made of, those of version 0.1."""
    first = {new: old for old, new in FORMER_NAMES.items()}
    return {first.get(name, name): value for name, value in arguments.items()}


def check_rows(config: Config, training: int, validation: int) -> None:
    """Check that there are rows enough for a batch and for validation.

    Raises:
        UsageError: there are not; the message names the keys.
    """
    train = config.train
    if train.batch_size > training:
        raise UsageError(
            f"train.batch_size={train.batch_size} is more than the {training} training rows "
            f"(budget={config.budget}, {validation} kept for validation)"
        )
    if train.batch_size % max(train.workers, 1):
        raise UsageError(
            f"train.batch_size={train.batch_size} cannot be split evenly over "
            f"train.workers={train.workers}: use a multiple"
        )
    if validation < 2:
        raise UsageError(
            f"train.validation={train.validation} of {config.budget} simulations leaves "
            f"{validation} rows for validation; at least 2 are needed"
        )


def build(
    config: Config, prior: Prior | None, names: Sequence[str], sample: Batch
) -> estimators.Estimator:
    """Return the configured estimator, untrained, for rows like those of a sample.

    Raises:
        UsageError: it cannot be built; the message says why.
    """
    shape = prior.shape if prior else (len(names),)
    x = {name: tuple(values.shape[1:]) for name, values in sample.x.items()}
    asked = decided(config, shape, x).estimator
    try:
        return estimators.create(
            asked.name,
            sample.theta,
            sample.x,
            low=prior.low if prior else None,
            high=prior.high if prior else None,
            names=names,
            scales=prior.scales if prior else None,
            preprocessing=asked.preprocessing,
            standardisation=asked.standardisation,
            parameter_shape=prior.shape if prior else None,
            grouping=asked.grouping,
            kinds=prior.kinds if prior else None,
            simplexes=prior.simplexes if prior else (),
            **asked.settings,
        )
    except (LookupError, TypeError, ValueError) as error:
        message = error.args[0] if error.args else error
        raise UsageError(f"estimator {asked.name!r}: {message}") from error


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
    """Return a forward pass by CUDA graphs, which save a small network the launch of its kernels.

    A replay of a graph overwrites the output of the one before. Each output is copied, because several are
    needed at a time.
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
