"""The training loop: knows neither the method, nor where its rows come from, nor the cluster.

The random numbers of step k on rank r follow from (seed, k, r) and those of validation from the seed
alone. So nothing random needs saving, validation disturbs nothing, and a training that continues at
step k does what it would have done.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline.dataset import Batch, mix
from pipeline.errors import PipelineError
from pipeline.training.weights import Weights

if TYPE_CHECKING:
    from estimators import Estimator

TRAINING, VALIDATION = 1, 2  # streams of random numbers
VALIDATION_BATCH = 1024
VALIDATION_ROWS = 2048  # few rows are validated several times: losses are noisy


@dataclass(frozen=True)
class Recipe:
    """What a training does, apart from its rows.

    The learning rate warms up linearly over the first share of the K steps and falls as a cosine:

        rate_k = rate * (1 + cos(pi (k - w) / (K - w))) / 2,   w = warmup * K
    """

    steps: int
    learning_rate: float
    weight_decay: float
    warmup: float
    clip: float | None
    ema: float
    validate_every: int
    patience: int | None
    amp: bool
    seed: int

    def rate(self, step: int, steps: int | None = None) -> float:
        """Return the learning rate of a step of K = `steps`, 0 for the first."""
        steps = self.steps if steps is None else steps
        warm = self.warmup * steps
        if step < warm:
            return self.learning_rate * (step + 1) / math.ceil(warm)
        share = (step - warm) / (steps - warm)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


class Team:
    """The ranks that train together; a single rank has nobody to talk to."""

    def __init__(self, rank: int = 0, world: int = 1, device: str = "cpu") -> None:
        self.rank, self.world, self.device = rank, world, torch.device(device)

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the ranks, in one message."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks, of equal number, on every rank."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def follow(self, *values: float) -> tuple[float, ...]:
        """Return the values of rank 0 on every rank."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())


class Keeper(Protocol):
    """What rank 0 asks now and then."""

    def look(self, loop: Loop) -> tuple[bool, bool, int]:
        """Return whether to save, whether to stop, and after how many steps to look again."""
        ...

    def save(self, loop: Loop) -> None: ...


class Loop:
    """An estimator under training: step by step, with validation and early stopping.

    Arguments:
        estimator: module with `loss(theta, x, progress) -> Tensor ()`, on the team's device.
        recipe: what to do.
        validation: rows that are never trained on.
        team: the ranks that train together.
    """

    def __init__(self, estimator: Estimator, recipe: Recipe, validation: Batch, team: Team) -> None:
        self.estimator, self.recipe, self.team = estimator, recipe, team
        self.validation = validation
        self.step = 0
        self.phase = 0
        self.phases = estimator.phases
        self.weights = Weights(self.phases[0].parameters, recipe.ema)
        self._ends = _ends([phase.share for phase in self.phases], recipe.steps)
        self.seconds = 0.0
        self.curves: list[dict[str, Any]] = []
        self.best_loss: float | None = None
        self.best: dict[str, Tensor] | None = None
        self.waiting = 0  # validations without improvement
        self.examples: dict[str, Tensor] = {}  # of a phase with replay
        self._pending: list[Tensor] = []  # losses not yet looked at
        self._sum, self._count = 0.0, 0  # training loss since the last validation
        self._generator: torch.Generator = torch.default_generator
        if team.device.type == "cuda":
            torch.cuda.init()
            self._generator = torch.cuda.default_generators[torch.cuda.current_device()]

    @property
    def finished(self) -> bool:
        patience, last = self.recipe.patience, self.phase == len(self._ends) - 1
        early = patience is not None and self.waiting >= patience
        return self.step >= self.recipe.steps or (last and early)

    def run(self, batches: Iterator[Batch], keeper: Keeper) -> bool:
        """Train until finished (True) or told to stop (False), with torch's number of threads.

        Raises:
            PipelineError: the loss is NaN or infinite.
        """
        import scipy.linalg.cython_blas  # noqa: F401  (the library whose threads are limited)

        with threadpool_limits(torch.get_num_threads(), user_api="blas"):
            return self._run(batches, keeper)

    def _run(self, batches: Iterator[Batch], keeper: Keeper) -> bool:
        started, before = time.monotonic(), self.seconds
        next_look, stop = self.step + 1, False
        self.estimator.train()
        while not self.finished and not stop:
            self._advance(next(batches))
            if self.step % self.recipe.validate_every == 0 or self.step in self._ends:
                self.seconds = before + time.monotonic() - started
                self._validate()
            if self.step >= next_look or self.finished:
                self._collect()
                self.seconds = before + time.monotonic() - started
                wishes = keeper.look(self) if self.team.rank == 0 else (False, False, 0)
                save, halt, stride = self.team.follow(*wishes)
                if save and self.team.rank == 0:
                    keeper.save(self)
                stop, next_look = bool(halt), self.step + int(stride)
        return self.finished

    def finish(self) -> None:
        """Put the final weights into the estimator: the best where they count, else the average."""
        self._settle()
        self.estimator.eval()

    def _settle(self) -> None:
        if self.best is not None:
            self.estimator.load_state_dict(self.best)
        else:
            self.weights.settle()

    def _begin(self, phase: int) -> None:
        """End a phase with its final weights; the next has an optimiser and a schedule of its own."""
        self._settle()
        self.phase, self.best, self.best_loss, self.waiting = phase, None, None, 0
        self.examples = {}
        self.estimator.begin(phase)
        self.weights = Weights(self.phases[phase].parameters, self.recipe.ema)

    @property
    def _start(self) -> int:
        """The first step of the phase."""
        return self._ends[self.phase - 1] if self.phase else 0

    def _rate(self, step: int) -> float:
        factor = self.phases[self.phase].rate
        start = self._start
        return factor * self.recipe.rate(step - start, self._ends[self.phase] - start)

    def _advance(self, batch: Batch) -> None:
        recipe, step = self.recipe, self.step
        if step >= self._ends[self.phase]:
            self._begin(self.phase + 1)
        batch = batch.to(self.team.device)
        self._generator.manual_seed(mix(recipe.seed, TRAINING, step, self.team.rank))
        with self._precision():
            loss = self._loss(batch)
        loss.backward()
        gradients = self.weights.gradients()
        self.team.mean(gradients)
        count = step - self._start
        self.weights.step(gradients, self._rate(step), recipe.weight_decay, recipe.clip, count)
        self._pending.append(loss.detach())
        self.step = step + 1

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of a step: of its batch, or of as many examples made of earlier batches.

        The examples are the same on every rank, so that those of rank 0 are all that is saved.
        """
        replay = self.phases[self.phase].replay
        if replay is None:
            return self.estimator.loss(batch.theta, batch.x, self.step / self.recipe.steps)
        if not self.examples or (self.step - self._start) % replay.every == 0:
            old, fresh = self.examples, self.estimator.examples(batch.theta, batch.x)
            self.examples = {
                name: torch.cat([self.team.gather(new), old.get(name, new[:0])])[: replay.keep]
                for name, new in fresh.items()
            }
        count = len(next(iter(self.examples.values())))
        chosen = torch.randint(count, (len(batch.theta),), device=self.team.device)
        return self.estimator.replayed(
            {name: values[chosen] for name, values in self.examples.items()}
        )

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.recipe.amp:
            return nullcontext()
        return torch.autocast(self.team.device.type, dtype=torch.bfloat16)

    def _collect(self) -> None:
        """Look at the losses since the last time; one that is not finite ends the training."""
        if not self._pending:
            return
        losses = torch.stack(self._pending).float()
        self.team.mean([losses])
        first = self.step - len(self._pending)
        self._pending.clear()
        for step, loss in enumerate(losses.tolist(), first):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", step)
            self._sum += loss
            self._count += 1

    def _diverged(self, what: str, step: int) -> PipelineError:
        return PipelineError(
            f"training diverged: {what} in step {step} of {self.recipe.steps}, at learning rate "
            f"{self._rate(step):.3g}; the last good state is kept. A smaller "
            "train.learning_rate, train.clip or train.warmup may help"
        )

    def _validate(self) -> None:
        """Note the mean losses; remember the best weights if they may be asked for."""
        self._collect()
        loss = self._validation_loss() if self.team.rank == 0 else 0.0
        (loss,) = self.team.follow(loss)
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
        if self.recipe.patience is not None or self.phases[self.phase].best:
            with self.weights.averaged():
                state = self.estimator.state_dict()
                self.best = {name: value.detach().clone() for name, value in state.items()}

    def _validation_loss(self) -> float:
        """Return the mean loss of the averaged weights, with fixed random numbers.

        Progress is that of the phase's end, so that the losses of a phase can be compared. Few rows are
        repeated, each time with other noise: what remains is the noise of the rows alone.
        """
        total = 0.0
        rows = torch.arange(len(self.validation.theta))
        rows = rows.repeat(max(1, VALIDATION_ROWS // len(rows)))
        last = self.phase == len(self._ends) - 1
        progress = 1.0 if last else (self._ends[self.phase] - 1) / self.recipe.steps
        self._generator.manual_seed(mix(self.recipe.seed, VALIDATION))
        self.estimator.eval()
        with self.weights.averaged(), torch.no_grad(), self._precision():
            for part in rows.split(VALIDATION_BATCH):
                batch = self.validation.take(part).to(self.team.device)
                total += len(part) * float(self.estimator.loss(batch.theta, batch.x, progress))
        self.estimator.train()
        return total / len(rows)

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
            "examples": self.examples,
            "curves": self.curves,
            "sum": self._sum,
            "count": self._count,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.estimator.load_state_dict(state["module"])
        self.phase = state["phase"]
        self.weights = Weights(self.phases[self.phase].parameters, self.recipe.ema)
        self.weights.load(state["weights"], state["step"] - self._start)
        self.examples = state.get("examples", {})  # older states have none
        for name in ("step", "seconds", "best", "best_loss", "waiting", "curves"):
            setattr(self, name, state[name])
        self._sum, self._count = state["sum"], state["count"]


def _ends(shares: list[float], steps: int) -> list[int]:
    """Return the step behind the last of each phase."""
    return [math.ceil(total * steps - 1e-6) for total in itertools.accumulate(shares[:-1])] + [
        steps
    ]
