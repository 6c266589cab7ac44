"""The public interface of sbiflow: from a simulator to an answer that can be defended.

    from sbiflow import Run, Uniform

    run = Run("runs/mine", simulator=my_model, budget=2000)
    run.simulate()
    run.train()
    run.evaluate()
    answer = run.infer(observed)

The packages `simulators`, `estimators`, `evaluation`, `cluster` and `pipeline` have everything else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from simulators import (
    Categorical,
    DataPrior,
    Dirichlet,
    Distribution,
    Independent,
    Integer,
    LogNormal,
    LogUniform,
    MultivariateNormal,
    Normal,
    Prior,
    Product,
    Program,
    Simulator,
    TruncatedNormal,
    Uniform,
    simulator,
)

if TYPE_CHECKING:
    from estimators import Posterior as Posterior
    from pipeline.answer.answer import Answer as Answer
    from pipeline.answer.check import Check as Check
    from sbiflow.run import Run as Run

__all__ = [
    "Answer",
    "Categorical",
    "Check",
    "DataPrior",
    "Dirichlet",
    "Distribution",
    "Independent",
    "Integer",
    "LogNormal",
    "LogUniform",
    "MultivariateNormal",
    "Normal",
    "Posterior",
    "Prior",
    "Product",
    "Program",
    "Run",
    "Simulator",
    "TruncatedNormal",
    "Uniform",
    "simulator",
]

_LAZY = {
    "Answer": "pipeline.answer.answer",
    "Check": "pipeline.answer.check",
    "Posterior": "estimators",
    "Run": "sbiflow.run",
}


def __getattr__(name: str) -> Any:
    # Importing a distribution must not cost the import of torch.
    if name not in _LAZY:
        raise AttributeError(f"module 'sbiflow' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
