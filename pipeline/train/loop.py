"""The training loop: knows neither the method, nor where its rows come from, nor the cluster.

The random numbers of step k follow from (seed, k), for each row of the batch the same on any number of ranks,
and those of validation from the seed alone. So nothing random needs saving, validation disturbs nothing,
and a training that continues at step k does what it would have done.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.streams import TrainingStream
from pipeline.train.dataset import Batch, mix
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.memory import batch_that_fits
from pipeline.train.minimum import Minimum, clear_minimum
from pipeline.train.ranks import Ranks
from pipeline.train.validation import most_rows, times_each
from pipeline.train.weights import Weights

if TYPE_CHECKING:
    from estimators import Estimator

VALIDATION_BATCH = 1024


class Supervisor(Protocol):
    """Decides on rank 0 when the state is saved and when training stops."""

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        """Return whether to save, whether to stop, and after how many steps to check again."""
        ...

    def save(self, loop: Loop) -> None:
        """Save the state."""
        ...


class Loop:
    """The training of an estimator: optimiser steps, validation and early stopping.

    Arguments:
        estimator: module with `loss(theta, x, progress) -> Tensor ()`, on the device of the ranks.
        hyperparameters: how it is optimised.
        validation: rows that are never trained on.
        ranks: the ranks that train together.
    """

    def __init__(
        self,
        estimator: Estimator,
        hyperparameters: Hyperparameters,
        validation: Batch,
        ranks: Ranks,
    ) -> None:
        self.estimator, self.hyperparameters, self.ranks = estimator, hyperparameters, ranks
        self.validation = validation
        self.step = 0
        self.phase = 0
        self.phases = estimator.phases
        for module in estimator.modules():
            if hasattr(module, "whole_batch"):
                module.whole_batch = self._whole_batch  # type: ignore[assignment]
        self.weights = Weights(self.phases[0].parameters, hyperparameters.ema)
        self._ends = _ends([phase.share for phase in self.phases], hyperparameters.steps)
        self.seconds = 0.0
        self.curves: list[dict[str, Any]] = []
        self.best_loss: float | None = None
        self.best: dict[str, Tensor] | None = None
        self.minima: list[Minimum] = []  # of the phases that ended with a clear one
        self.kept_step: int | None = None  # of the phase that ended last, if not its last step
        self.waiting = 0  # validations without improvement
        self.examples: dict[str, Tensor] = {}  # of a phase with replay
        self._pending: list[Tensor] = []  # losses not fetched yet
        self._sum, self._count = 0.0, 0  # training loss since the last validation
        self._norm: Tensor | None = None  # of the gradient, at the step after the last check
        self._measures = True  # whether the next step measures it
        self._generator: torch.Generator = torch.default_generator
        if ranks.device.type == "cuda":
            torch.cuda.init()
            self._generator = torch.cuda.default_generators[torch.cuda.current_device()]

    def _whole_batch(self, rows: Tensor) -> Tensor:
        return (
            self.ranks.gather(rows) if self.estimator.training else rows
        )  # rank 0 validates alone

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has not improved for long enough."""
        patience, last = self.hyperparameters.patience, self.phase == len(self._ends) - 1
        early = patience is not None and self.waiting >= patience
        return self.step >= self.hyperparameters.steps or (last and early)

    def run(self, batches: Iterator[Batch], supervisor: Supervisor) -> bool:
        """Train until finished (True) or told to stop (False), with torch's number of threads.

        Raises:
            PipelineError: the loss is NaN or infinite.
        """
        import scipy.linalg.cython_blas  # noqa: F401  (the library whose threads are limited)

        with threadpool_limits(torch.get_num_threads(), user_api="blas"):
            return self._run(batches, supervisor)

    def _run(self, batches: Iterator[Batch], supervisor: Supervisor) -> bool:
        started, before = time.monotonic(), self.seconds
        next_check, stop = self.step + 1, False
        self.estimator.train()
        while not self.finished and not stop:
            self._advance(next(batches))
            if self.step % self.hyperparameters.validate_every == 0 or self.step in self._ends:
                self.seconds = before + time.monotonic() - started
                self._validate()
            if self.step >= next_check or self.finished:
                self._collect()
                self.seconds = before + time.monotonic() - started
                stop, next_check = self._check(supervisor)
        return self.finished

    def _check(self, supervisor: Supervisor) -> tuple[bool, int]:
        """Save the state if it is time; return whether to stop, and the step of the next check."""
        first = self.ranks.rank == 0
        decision = supervisor.check(self) if first else (False, False, 0)
        save, stop, stride = self.ranks.broadcast(*decision)
        if save and first:
            supervisor.save(self)
        return bool(stop), self.step + int(stride)

    def finish(self) -> None:
        """Put the final weights into the estimator."""
        self._settle()
        self.estimator.eval()

    def _settle(self) -> None:
        """End a phase with its best weights if they are wanted or clearly better, else with the average."""
        phase, losses = self.phases[self.phase], self._losses()
        clear = (
            None if phase.moving else clear_minimum(phase.name, list(losses), list(losses.values()))
        )
        if clear is not None:
            self.minima.append(clear)
        self.kept_step = None
        if self.best is not None and (clear is not None or self._keeps_best):
            self.kept_step = min(losses, key=losses.__getitem__)
            self.estimator.load_state_dict(self.best)
        else:
            self.weights.settle()

    @property
    def _keeps_best(self) -> bool:
        return self.hyperparameters.patience is not None or self.phases[self.phase].best

    def _losses(self) -> dict[int, float]:
        """Return the finite validation losses of the phase by step."""
        return {
            row["step"]: row["validation"]
            for row in self.curves
            if row["step"] > self._start and row["validation"] is not None
        }

    def _begin(self, phase: int) -> None:
        """End a phase and begin another, which has an optimiser and a schedule of its own."""
        self._settle()
        self.phase, self.best, self.best_loss, self.waiting = phase, None, None, 0
        self.examples = {}
        self.estimator.begin(phase)
        self.weights = Weights(self.phases[phase].parameters, self.hyperparameters.ema)

    @property
    def _start(self) -> int:
        """The first step of the phase."""
        return self._ends[self.phase - 1] if self.phase else 0

    def _rate(self, step: int) -> float:
        factor = self.phases[self.phase].rate
        start = self._start
        return factor * self.hyperparameters.rate(step - start, self._ends[self.phase] - start)

    def _advance(self, batch: Batch) -> None:
        hyperparameters, step = self.hyperparameters, self.step
        if step >= self._ends[self.phase]:
            self._begin(self.phase + 1)
        batch = batch.to(self.ranks.device)
        self._generator.manual_seed(mix(hyperparameters.seed, TrainingStream.TRAINING, step, 0))
        with batch_that_fits(self._attempt, batch, hyperparameters, self.ranks):
            loss = self.differentiate(batch, hyperparameters.accumulate)
        gradients = self.weights.gradients()
        self.ranks.mean(gradients)
        if self._measures:
            self._norm, self._measures = torch.nn.utils.get_total_norm(gradients), False
        count = step - self._start
        self.weights.step(
            gradients, self._rate(step), hyperparameters.weight_decay, hyperparameters.clip, count
        )
        self._pending.append(loss)
        self.step = step + 1

    def differentiate(self, batch: Batch, parts: int) -> Tensor:
        """Return the loss of a step and leave its gradients in the parameters, computed part by part."""
        losses = []
        for part in batch.parts(parts):
            with self._precision(), self.ranks.noise(len(part.theta)):
                loss = self._loss(part)
            if parts > 1:
                loss = loss * (len(part.theta) / len(batch.theta))
            loss.backward()
            losses.append(loss.detach())
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def _attempt(self, batch: Batch) -> None:
        """Compute the gradients of a batch once more, in memory that holds no others."""
        for parameter in self.weights.parameters:
            parameter.grad = None
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        self.differentiate(batch, 1)

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of a step: that of its batch, or of as many examples made from earlier batches.

        All ranks hold the same examples, so that it is enough to save those of rank 0.
        """
        replay = self.phases[self.phase].replay
        if replay is None:
            return self.estimator.loss(batch.theta, batch.x, self.step / self.hyperparameters.steps)
        if not self.examples or (self.step - self._start) % replay.every == 0:
            old, fresh = self.examples, self.estimator.examples(batch.theta, batch.x)
            self.examples = {
                name: torch.cat([self.ranks.gather(new), old.get(name, new[:0])])[: replay.keep]
                for name, new in fresh.items()
            }
        count = len(next(iter(self.examples.values())))
        chosen = torch.randint(count, (len(batch.theta),), device=self.ranks.device)
        return self.estimator.replay_loss(
            {name: values[chosen] for name, values in self.examples.items()}
        )

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.hyperparameters.amp:
            return nullcontext()
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16)

    def _collect(self) -> None:
        """Fetch the losses since the last time; one that is not finite ends the training."""
        if not self._pending:
            return
        losses = torch.stack(self._pending).float()
        self.ranks.mean([losses])
        first = self.step - len(self._pending)
        self._pending.clear()
        for step, loss in enumerate(losses.tolist(), first):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", step)
            self._sum += loss
            self._count += 1

    def _diverged(self, what: str, step: int) -> PipelineError:
        return PipelineError(
            f"training diverged: {what} in step {step} of {self.hyperparameters.steps}, at learning rate "
            f"{self._rate(step):.3g}; the last good state is kept. A smaller "
            "train.learning_rate, train.clip or train.warmup may help"
        )

    def _validate(self) -> None:
        """Add the mean losses to the curves; keep the best weights where losses can be compared."""
        self._collect()
        loss = self._validation_loss() if self.ranks.rank == 0 else 0.0
        (loss,) = self.ranks.broadcast(loss)
        self.curves.append(
            {
                "step": self.step,
                "train": self._sum / max(self._count, 1),
                "validation": loss if math.isfinite(loss) else None,
                "learning_rate": self._rate(self.step - 1),
                "seconds": round(self.seconds, 3),
            }
        )
        self._sum, self._count = 0.0, 0
        if not math.isfinite(loss) or (self.best_loss is not None and loss >= self.best_loss):
            self.waiting += 1
            return
        self.best_loss, self.waiting = loss, 0
        if self._keeps_best or not self.phases[self.phase].moving:
            with self.weights.averaged():
                state = self.estimator.state_dict()
                self.best = {name: value.detach().clone() for name, value in state.items()}

    def _validation_loss(self) -> float:
        """Return the mean loss of the averaged weights, with fixed random numbers.

        Progress is that of the end of the phase, so that the losses of a phase can be compared. If there
        are few rows, each is used several times with other noise, which reduces the variance of the loss;
        see `pipeline.train.validation` for their number.
        """
        total = 0.0
        count, parameters = self.validation.theta.shape
        rows = torch.arange(min(count, most_rows(parameters)))
        rows = rows.repeat(times_each(len(rows), parameters))
        last = self.phase == len(self._ends) - 1
        progress = 1.0 if last else (self._ends[self.phase] - 1) / self.hyperparameters.steps
        self._generator.manual_seed(mix(self.hyperparameters.seed, TrainingStream.VALIDATION))
        self.estimator.eval()
        with self.weights.averaged(), torch.no_grad(), self._precision():
            for part in rows.split(VALIDATION_BATCH):
                batch = self.validation.take(part).to(self.ranks.device)
                total += len(part) * float(self.estimator.loss(batch.theta, batch.x, progress))
        self.estimator.train()
        return total / len(rows)

    def pace(self) -> dict[str, float]:
        """Return the mean training loss since the last validation, learning rate and norm of the gradient."""
        values = {"learning_rate": self._rate(max(self.step - 1, self._start))}
        if self._count:
            values["train"] = self._sum / self._count
        if self._norm is not None:
            values["gradient_norm"] = float(self._norm)
        self._measures = True
        return values

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values from which `load` continues exactly.

        Raises:
            PipelineError: a weight is NaN or infinite.
        """
        if not self.weights.finite():
            raise self._diverged("a weight is not finite", self.step - 1)
        return {
            "step": self.step,
            "phase": self.phase,
            "seconds": self.seconds,
            "module": self.estimator.state_dict(),
            "weights": self.weights.state(),
            "best": self.best,
            "best_loss": self.best_loss,
            "waiting": self.waiting,
            "minima": [asdict(minimum) for minimum in self.minima],
            "replay": self.examples,
            "curves": self.curves,
            "sum": self._sum,
            "count": self._count,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.estimator.load_state_dict(state["module"])
        self.phase = state["phase"]
        self.weights = Weights(self.phases[self.phase].parameters, self.hyperparameters.ema)
        self.weights.load(state["weights"], state["step"] - self._start)
        self.examples = state.get("replay", {})  # older states have none of this form: made anew
        self.minima = [Minimum(**values) for values in state.get("minima", ())]
        for name in ("step", "seconds", "best", "best_loss", "waiting", "curves"):
            setattr(self, name, state[name])
        self._sum, self._count = state["sum"], state["count"]


def _ends(shares: list[float], steps: int) -> list[int]:
    """Return for each phase the step after its last."""
    return [math.ceil(total * steps - 1e-6) for total in itertools.accumulate(shares[:-1])] + [
        steps
    ]
