"""An inverse problem as a command names it: prior, operator, method and their settings."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import load, override
from pipeline.errors import PipelineError, UsageError
from pipeline.imported.arrays import reading, require_numbers
from pipeline.progress import Progress
from pipeline.results import Results, advising, latest_training
from pipeline.run import RunDirectory
from pipeline.train.device import device

if TYPE_CHECKING:
    from torch import Tensor

    from estimators.inverse import DiffusionPrior, Operator, Solution, Solver


@dataclass(frozen=True)
class InverseProblem:
    """What is asked for.

    Attributes:
        run: whose latest training is the prior.
        operator_name: see `estimators.inverse.operator_of`.
        method: see `estimators.inverse.available`.
        settings, operator_settings: of the method and of the operator.
    """

    run: RunDirectory
    operator_name: str
    method: str
    settings: Mapping[str, Any]
    operator_settings: Mapping[str, Any]

    @classmethod
    def of(
        cls, run: RunDirectory, operator: str, method: str, words: Iterable[str] = ()
    ) -> InverseProblem:
        """Return the problem of a command, whose words are `key=value` or `operator.key=value`.

        Raises:
            UsageError: a word that is neither.
        """
        settings = override({}, words)
        given = settings.pop("operator", {})
        return cls(run, operator, method, settings, given)

    @cached_property
    def training(self) -> str:
        """Key of the training that is the prior."""
        return latest_training(self.run)

    @cached_property
    def results(self) -> Results:
        """The files of the prior's training."""
        return Results(self.run, self.training)

    @cached_property
    def prior(self) -> DiffusionPrior:
        """The prior, by the latest training."""
        from estimators.inverse import EstimatorPrior

        with advising(self.run, "train"):
            on = device("evaluate.device", load(self.run).evaluate.device)
            posterior = self.results.load(on)
        try:
            return EstimatorPrior(posterior)
        except ValueError as error:
            raise UsageError(f"{self.run.path} is no prior: {error}") from error

    @cached_property
    def operator(self) -> Operator:
        """The operator."""
        from estimators.inverse import operator_of

        try:
            return operator_of(self.operator_name, **self.operator_settings)
        except (LookupError, TypeError, ValueError) as error:
            raise UsageError(f"--operator: {error.args[0]}") from error

    @cached_property
    def solver(self) -> Solver:
        """The method on the prior."""
        from estimators.inverse import create

        try:
            return create(self.method, self.prior, **self.settings)
        except (LookupError, TypeError, ValueError) as error:
            raise UsageError(f"--method: {error.args[0]}") from error

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        return list(self.description["names"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameters as an array."""
        return tuple(self.description["shape"])

    @property
    def description(self) -> dict[str, Any]:
        """What the prior's posterior says of the parameters."""
        found: dict[str, Any] = (self.results.posterior() or {})["theta"]
        return found

    def measurements(self, y: np.ndarray) -> tuple[Tensor, bool]:
        """Return measurements (B, ...) on the prior's device, and whether it was a single one.

        Raises:
            UsageError: y has another shape than the operator gives, or the operator does not fit the prior.
        """
        import torch

        values = torch.as_tensor(y if y.dtype.kind in "iub" else np.asarray(y, np.float32))
        values = values.to(self.prior.shift.device)
        try:
            single = self.solver.is_single(values, self.operator)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return (values[None] if single else values), single

    def solve(self, y: Tensor, n: int, seed: int) -> tuple[Solution, float]:
        """Return draws for measurements (B, ...), and seconds.

        Raises:
            UsageError: the method cannot take the operator.
            PipelineError: the operator gives what is not finite.
        """
        start = time.perf_counter()
        try:
            with Progress("invert", len(y) * n, "draws") as progress:
                solution = self.solver.solve(
                    y,
                    self.operator,
                    n,
                    seed,
                    lambda share: progress.update(int(share * len(y) * n)),
                )
                progress.update(len(y) * n)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except FloatingPointError as error:
            raise PipelineError(str(error)) from error
        return solution, time.perf_counter() - start

    def identity(self) -> dict[str, Any]:
        """Return what the draws follow from, beside y, n and seed: JSON."""
        return {
            "training": self.training,
            "weights": self.results.weights_digest(),
            "operator": self.operator_name,
            "operator_settings": dict(self.operator_settings),
            "method": self.method,
            "settings": dict(self.settings),
        }

    def key(self, others: Mapping[str, Any]) -> str:
        """Return a name for a folder: method, operator, and a hash of the identity and `others`."""
        content = json.dumps({**self.identity(), **others}, sort_keys=True, default=str)
        name = re.sub(r"\W+", "_", self.operator_name.rpartition("/")[2]).strip("_")
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^0-9A-Za-z]+', '_', self.method)}-{name}-{digest}"


def read_measurement(path: Path) -> np.ndarray:
    """Read y: the array of an .npy file, the only array of an .npz file, or the one called `y`.

    Raises:
        UsageError: there is none, or it holds no numbers.
    """
    with reading(path):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"y": loaded}
        else:
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    if "y" not in arrays and len(arrays) != 1:
        raise UsageError(f"{path} holds {sorted(arrays)}; the measurement is the array `y`")
    y = arrays.get("y", next(iter(arrays.values())))
    require_numbers(path, {"y": y})
    return y
