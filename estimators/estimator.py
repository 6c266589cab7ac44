"""The base of every estimator: a module with a loss that hands out a posterior."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from estimators.jacobian import jacobian, log_normal
from estimators.summary.preprocessed import summary_of
from estimators.training_range import TrainingRange
from estimators.transform import SCALES, parameter_transform

if TYPE_CHECKING:
    from estimators.posterior import Posterior


@dataclass(frozen=True)
class Problem:
    """What is inferred from what: the parameters with their bounds and the outputs' shapes."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    x: dict[str, tuple[int, ...]]  # the shape of one simulation's output
    scales: tuple[str, ...] = ()  # linear or log, of each parameter; empty: all linear
    preprocessing: str = "none"  # of the outputs, see `estimators.preprocessing`

    @property
    def size(self) -> int:
        """The number D of parameters."""
        return len(self.names)

    @classmethod
    def of(
        cls,
        theta: ArrayLike,
        x: Mapping[str, ArrayLike],
        *,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        scales: Sequence[str] | None = None,
        preprocessing: str = "none",
    ) -> tuple[Problem, Tensor, dict[str, Tensor]]:
        """Return the problem that training rows pose, and the rows as float32 tensors.

        Raises:
            ValueError: shapes that disagree, bounds out of order, values that are not finite, a
                single row, a parameter that never changes or leaves its bounds.
        """
        rows = torch.as_tensor(np.asarray(theta), dtype=torch.float32)
        if rows.ndim != 2 or not rows.numel():
            raise ValueError(f"theta has shape {tuple(rows.shape)}; valid is (n, D), not empty")
        n, size = rows.shape
        names = tuple(names) if names is not None else tuple(f"theta{i}" for i in range(size))
        bounds = {
            "low": _bound("low", low, -np.inf, size),
            "high": _bound("high", high, np.inf, size),
        }
        if len(names) != size:
            raise ValueError(f"{len(names)} names {names} for {size} parameters")
        for name, a, b in zip(names, bounds["low"], bounds["high"], strict=True):
            if not a < b:
                raise ValueError(f"parameter {name!r}: low {a} is not below high {b}")
        scales = _scales(scales or ["linear"] * size, names, rows)
        outputs = {k: torch.as_tensor(np.asarray(v), dtype=torch.float32) for k, v in x.items()}
        if not outputs:
            raise ValueError("x has no arrays")
        for name, values in {"theta": rows, **{f"x[{k!r}]": v for k, v in outputs.items()}}.items():
            if len(values) != n:
                raise ValueError(f"{name} has {len(values)} rows, theta has {n}")
            if not values.isfinite().all():
                raise ValueError(f"{name} holds NaN, infinity, or what float32 cannot hold")
        if n < 2:
            raise ValueError(
                "one simulation is not enough: at least 2 rows give a mean and a scale"
            )
        for name, column, a, b in zip(names, rows.T, bounds["low"], bounds["high"], strict=True):
            _check_parameter(name, column, a, b)
        padded = {name for name in outputs if f"{name}_mask" in outputs}
        for name in outputs.keys() - padded - {f"{name}_mask" for name in padded}:
            _check_output(name, outputs[name])
        shapes = {name: tuple(values.shape[1:]) for name, values in sorted(outputs.items())}
        problem = cls(names, bounds["low"], bounds["high"], shapes, scales, preprocessing)
        return problem, rows, outputs


@dataclass(frozen=True)
class Replay:
    """How a phase learns from examples that are dear to make, and serve several times.

    Attributes:
        every: steps from one call of `Estimator.examples` to the next.
        keep: rows of examples that are kept, the latest.
    """

    every: int
    keep: int


@dataclass(frozen=True)
class Phase:
    """A stretch of training with an optimiser and a learning-rate schedule of its own.

    Attributes:
        name: for people.
        share: of all steps; the shares of the phases add up to 1.
        parameters: what is trained, on the device the module was on when asked.
        rate: factor on the learning rate.
        best: whether its end keeps the weights of the lowest validation loss rather than the last ones:
            for losses of which less is better, that is all but those with a moving target.
        replay: none: a step learns from its batch, by `Estimator.loss`; else from as many kept examples,
            by `Estimator.replayed`.
    """

    name: str
    share: float
    parameters: list[nn.Parameter]
    rate: float = 1.0
    best: bool = False
    replay: Replay | None = None


class Estimator(nn.Module):
    """Base class: standardisation, the summary of x, and the way to a posterior.

    A subclass takes the problem and keyword arguments (its configuration), and defines `loss` and
    `draw`; `density` where log p(u | x) is tractable; `push` where a draw is a function of one noise.
    Parameters reach these as u = transform(theta), data as the context, the summary of x.

    Arguments:
        problem: names, bounds and shapes.
        bounds: treatment of bounded parameters, see `estimators.transform`.
        summary: name of the summary network, see `estimators.summary`.
        summary_arguments: the summary network's own settings.
    """

    name = ""
    arguments: dict[str, Any]
    learning_rate = 1e-3  # the usual one
    steps: int | None = None  # network passes for a draw; None where there is no choice

    def __init__(
        self,
        problem: Problem,
        *,
        bounds: str,
        summary: str,
        summary_arguments: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self.problem, self.bounds = problem, bounds
        low = torch.tensor(problem.low, dtype=torch.float64)
        high = torch.tensor(problem.high, dtype=torch.float64)
        log = torch.tensor(
            [scale == "log" for scale in problem.scales or ["linear"] * problem.size]
        )
        self.transform = parameter_transform(bounds, low, high, log)
        self.summary = summary_of(
            problem.x, problem.preprocessing, summary, summary_arguments or {}
        )
        self.range = TrainingRange(problem.x)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of training, in order; `progress` in `loss` runs through all of them."""
        return (Phase("training", 1.0, list(self.parameters())),)

    def begin(self, phase: int) -> None:
        """Prepare a phase; the weights of the phase before are at their moving averages."""

    @property
    def floats(self) -> int:
        """About how many numbers one draw takes in a pass: it decides how many are drawn at once."""
        return self.problem.size + self.summary.width

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        """Take means, scales and ranges from training rows."""
        self.transform.fit(theta)
        self.summary.fit(x)
        self.range.fit(x)

    def forward(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        return self.loss(theta, x, progress)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the training loss of a batch, shape ().

        Arguments:
            theta: parameters (n, D), natural units.
            x: outputs, each (n, ...).
            progress: share of training that is done, in [0, 1]; the only state of training.
        """
        raise NotImplementedError

    def examples(self, theta: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a phase with `replay` learns from, made of a batch; the first axis is rows."""
        raise NotImplementedError

    def replayed(self, examples: Mapping[str, Tensor]) -> Tensor:
        """Return the training loss of rows of examples, shape ()."""
        raise NotImplementedError

    def draw(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> Tensor:
        """Return one draw u for each row of the context (rows, C), shape (rows, D).

        Arguments:
            generator: source of all randomness, on the CPU.
            steps: number of network passes, where the method has a choice.
        """
        raise NotImplementedError

    def push(self, z: Tensor, context: Tensor, steps: int | Sequence[float] | None) -> Tensor:
        """Return the draws u (rows, D) that the noise z ~ N(0, I), shape (rows, D), becomes."""
        raise NotImplementedError(f"a draw of estimator {self.name!r} is no function of one noise")

    def density(self, u: Tensor, context: Tensor) -> Tensor:
        """Return log p(u | context), shape (rows,)."""
        raise NotImplementedError(
            f"estimator {self.name or type(self).__name__!r} has no density at given parameters: "
            "use sample(), fit one to its draws with estimators.distil(), or train an estimator that "
            "has one (nsf, nsf_autoregressive, fmpe)"
        )

    def draw_with_density(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> tuple[Tensor, Tensor]:
        """Return one draw u for each row of the context, (rows, D), and log p(u | x), (rows,).

        Where `push` makes draws u = g(z), with exact Jacobian, otherwise by `density`:

            log p(u | x) = log N(z; 0, I) - log |det dg/dz|

        Raises:
            NotImplementedError: there is neither, or D is too large.
        """
        if type(self).push is Estimator.push:
            u = self.draw(context, generator, steps)
            return u, self.density(u, context)
        z = self.noise(context, generator)
        u, derivative = jacobian(lambda v: self.push(v, context, steps), z)
        return u, log_normal(z) - torch.linalg.slogdet(derivative).logabsdet

    def posterior(self) -> Posterior:
        """Return the posterior; it shares this module's weights."""
        from estimators.posterior import Posterior

        return Posterior(self)

    def noise(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """Return standard normal numbers (rows, D), the same on every device."""
        shape = (len(context), self.problem.size)
        return torch.randn(shape, generator=generator).to(context.device)


def within(
    name: str, value: float, low: float, high: float = float("inf"), *, integer: bool = False
) -> None:
    """Raise ValueError or TypeError unless `value` is a number in [low, high]."""
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        valid = "an integer" if integer else "a number"
        raise TypeError(f"{name} = {value!r} is not {valid}")
    if not low <= value <= high:
        raise ValueError(f"{name} = {value!r} is not in [{low}, {high}]")


def _bound(name: str, given: ArrayLike | None, otherwise: float, size: int) -> tuple[float, ...]:
    values = np.full(size, otherwise) if given is None else np.asarray(given, dtype=np.float64)
    if values.shape != (size,):
        raise ValueError(f"{name} has shape {values.shape}; valid is ({size},)")
    return tuple(values.tolist())


def _scales(given: Sequence[str], names: tuple[str, ...], theta: Tensor) -> tuple[str, ...]:
    if len(given) != len(names):
        raise ValueError(f"{len(given)} scales {tuple(given)} for {len(names)} parameters")
    for name, scale, least in zip(names, given, theta.amin(0).tolist(), strict=True):
        if scale not in SCALES:
            raise ValueError(f"parameter {name!r}: scale {scale!r}; valid: {', '.join(SCALES)}")
        if scale == "log" and not least > 0:
            raise ValueError(f"parameter {name!r} has the scale log, but theta holds {least}")
    return tuple(given)


def _check_parameter(name: str, values: Tensor, low: float, high: float) -> None:
    """Raise ValueError where a parameter is the same in all rows or outside of its bounds."""
    if values.amin() == values.amax():
        raise ValueError(
            f"parameter {name!r} is {values[0].item():.6g} in all {len(values)} rows: "
            "there is nothing to infer; leave it out"
        )
    slack = 1e-6 * max(abs(bound) for bound in (low, high, 1e-30) if np.isfinite(bound))
    outside = (values < low - slack) | (values > high + slack)
    if outside.any():
        raise ValueError(
            f"parameter {name!r}: {int(outside.sum())} of {len(values)} rows lie outside its bounds "
            f"[{low:g}, {high:g}], for example {values[outside][0].item():.6g}"
        )


def _check_output(name: str, values: Tensor) -> None:
    """Warn of an output, or of elements of a vector, that are the same in all rows."""
    same = (
        (values == values[0]).flatten(1).all(0) if values.ndim > 1 else (values == values[0]).all()
    )
    count, total = int(same.sum()), same.numel()
    edges = values.ndim > 2 or total > 64  # profiles and pictures often have constant edges
    if not count or (edges and count < total):
        return
    which = "is" if count == total else f"has {count} of {total} elements that are"
    warnings.warn(f"x[{name!r}] {which} the same in all {len(values)} rows", stacklevel=4)
