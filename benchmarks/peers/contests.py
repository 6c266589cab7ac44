"""Every comparison as data: which packages are trained, how, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.estimators import METHODS, plan_for


@dataclass(frozen=True)
class Entry:
    """One way to train, by one package; `passes` as its `sample` takes them, None its default."""

    name: str
    package: str
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    passes: tuple[int | None, ...] = (None,)


@dataclass(frozen=True)
class Contest:
    """Entries that see the same simulations and the same observations."""

    name: str
    task: str
    budget: int
    entries: tuple[Entry, ...]


def _planned(task: str, budget: int) -> Entry:
    """Return our default estimator as `benchmarks.estimators` trains it."""
    name = "cmpe_distilled"
    plan = {**vars(plan_for(task, name, budget))}
    return Entry(name, "sbiflow", plan.pop("estimator"), plan, METHODS[name])


def _ours(name: str, method: str, steps: int, **arguments: Any) -> Entry:
    plan = {"steps": steps, "rate": 3e-3, "arguments": arguments}
    return Entry(name, "sbiflow", method, plan, (1, 2, 10))


def _bayesflow(backend: str, steps: int, budget: int, passes: tuple[int | None, ...]) -> Entry:
    """Return its consistency model of two residual layers of 256, in batches of 64."""
    batch = 64
    arguments = {
        "epochs": steps * batch // budget,
        "batch_size": batch,
        "model": {"subnet_kwargs": {"widths": [256, 256], "dropout": 0.05}},
    }
    name = f"consistency model, 256x2, {steps} steps"
    return Entry(name, f"bayesflow-{backend}", "consistency_model", arguments, passes)


def _lean(backend: str, steps: int, budget: int) -> Entry:
    """Return one of as many multiplications as ours: its merging layer counts as one of the two."""
    network = {"widths": [256], "merge": "add", "dropout": 0.0, "norm": None}
    arguments = {
        "epochs": steps * 64 // budget,
        "batch_size": 64,
        "model": {"subnet_kwargs": network},
    }
    return Entry(
        "consistency model, lean", f"bayesflow-{backend}", "consistency_model", arguments, ()
    )


def _steps(budget: int) -> tuple[Entry, ...]:
    sbi = {
        "build": {"hidden_features": 256, "num_layers": 2},
        "train": {
            "training_batch_size": 64,
            "max_num_epochs": 9,  # it counts from 0
            "stop_after_epochs": 1_000_000,
            "validation_fraction": 0.05,
        },
    }
    entries = (
        _ours("cmpe", "cmpe", 5000),
        _ours("cmpe, dropout .05", "cmpe", 5000, dropout=0.05),
        _ours("cmpe_distilled, one member", "cmpe_distilled", 5000, members=1, dropout=0.05),
        _bayesflow("jax", 5120, budget, ()),
        _lean("jax", 5120, budget),
        _bayesflow("torch", 1536, budget, ()),
        Entry("fmpe, 256x2", "sbi", "fmpe", sbi),
    )
    return tuple(Entry(e.name, e.package, e.method, e.arguments, ()) for e in entries)


CHOSEN: tuple[int | None, ...] = (2, 5, 10)
DEFAULTS = (
    Entry("nsf, defaults", "sbi", "nsf"),
    Entry("fmpe, defaults", "sbi", "fmpe"),
)
BAYESFLOW = Entry("consistency model, defaults", "bayesflow-jax", "consistency_model", {}, CHOSEN)
CONTESTS = (
    Contest("steps", "two_moons", 8192, _steps(8192)),
    Contest(
        "two_moons_1024",
        "two_moons",
        1024,
        (
            _planned("two_moons", 1024),
            _ours(
                "cmpe_distilled, short",
                "cmpe_distilled",
                8000,
                members=1,
                dropout=0.1,
                input_scale=6.0,
            ),
            *DEFAULTS,
            BAYESFLOW,
            _bayesflow("jax", 32_000, 1024, CHOSEN),
        ),
    ),
    Contest(
        "two_moons_8192",
        "two_moons",
        8192,
        (_planned("two_moons", 8192), *DEFAULTS, BAYESFLOW),
    ),
    Contest("slcp", "slcp", 10_000, (_planned("slcp", 10_000), *DEFAULTS, BAYESFLOW)),
)
