"""Newer few-step methods as plug-ins, beside the product's distillation.

Each file is an estimator as a user would bring one: a subclass of a class of `estimators`, named
`package.module:Class` where an estimator is asked for. `python -m experiments.few_step` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.estimators import plan_for
from benchmarks.fit import TrainingSettings


@dataclass(frozen=True)
class Method:
    """How a method is trained by default.

    Attributes:
        plan: its training, apart from its teachers'.
        passes: the numbers of network passes it is measured with.
        teacher: the key in TEACHERS of what it learns from or starts at; None where nothing.
        takes: the arguments of the estimator that are given the teacher's artefact.
    """

    plan: TrainingSettings
    passes: tuple[int, ...] = (2, 10)
    teacher: str | None = None
    takes: tuple[str, ...] = ("teacher", "start")


def _denoisers(budget: int) -> TrainingSettings:
    """Denoisers alone, about as long as the first phase of `cmpe_distilled` in `benchmarks.estimators`."""
    if budget < 4096:
        return TrainingSettings(
            "npse", {"members": 4, "dropout": 0.2, "input_scale": 6.0}, steps=15_000, rate=3e-3
        )
    return TrainingSettings(
        "npse", {"members": 2, "dropout": 0.05, "input_scale": 6.0}, steps=30_000, rate=3e-3
    )


def _denoiser(budget: int) -> TrainingSettings:
    plan = _denoisers(budget)
    return TrainingSettings(
        "npse", {**plan.arguments, "members": 1}, steps=plan.steps, rate=plan.rate
    )


def _velocity(budget: int) -> TrainingSettings:
    times = {"times": "logit_normal", "times_arguments": {"mean": 2.0, "std": 2.0}}
    given = {"dropout": 0.2, "input_scale": 6.0, "bounds": "reflect", **times}
    return TrainingSettings("fmpe", given, steps=15_000, rate=3e-3)


def _velocities(budget: int) -> TrainingSettings:
    plan = _velocity(budget)
    given = {"member": "fmpe", "members": 2, "arguments": plan.arguments}
    return TrainingSettings("ensemble", given, steps=plan.steps, rate=plan.rate)


TEACHERS: dict[str, Callable[[int], TrainingSettings]] = {
    "denoisers": _denoisers,
    "denoiser": _denoiser,
    "velocities": _velocities,
    "velocity": _velocity,
}


def _plug_in(
    module: str, kind: str, steps: int = 10_000, rate: float = 1e-3, **given: Any
) -> TrainingSettings:
    return TrainingSettings(f"experiments.few_step.{module}:{kind}", given, steps=steps, rate=rate)


TAUGHT = {"teacher": "denoisers"}
TRIG = {"weight": 0.5, "warmup": 0.1}
MEAN = {"apart": 0.75, "power": 0.5, "restart": True}
METHODS = {
    "cmpe_distilled": Method(plan_for("two_moons", "cmpe_distilled", 1024)),
    "fmpe": Method(_velocity(1024), passes=(100,)),
    "denoisers": Method(_denoisers(1024), passes=(30,)),
    "neighbours_distilled": Method(_plug_in("neighbours", "Neighbours"), **TAUGHT),
    "tuning": Method(
        _plug_in("tuning", "Tuning", dropout=0.2), teacher="denoiser", takes=("start",)
    ),
    "tuning_distilled": Method(_plug_in("tuning", "Tuning"), **TAUGHT),
    "trig_flow": Method(_plug_in("trig_flow", "TrigFlow", dropout=0.2, **TRIG)),
    "trig_flow_distilled": Method(_plug_in("trig_flow", "TrigFlow", **TRIG), **TAUGHT),
    "mean_flow": Method(_plug_in("mean_flow", "MeanFlow", dropout=0.2, **MEAN)),
    "mean_flow_distilled": Method(_plug_in("mean_flow", "MeanFlow", **MEAN), **TAUGHT),
    "shortcut": Method(_plug_in("shortcut", "Shortcut", dropout=0.2)),
    "shortcut_distilled": Method(_plug_in("shortcut", "Shortcut"), **TAUGHT),
}
