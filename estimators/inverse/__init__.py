"""Inverse problems: draws of theta given y = A(theta) + noise, from a prior that was trained without y.

    prior = inverse.EstimatorPrior(posterior)                # of a run without outputs, or an exact prior
    solve = inverse.create("cm_smc", prior)
    draws = solve(y, inverse.operator_of("downsample"), 100, seed=0)          # (100, D)

A prior is a denoiser D(u, sigma) and, where there is one, a consistency function g(u, sigma), in coordinates u
with theta = shift + scale u. An operator is a function of tensors with a noise model. Every method is one file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from estimators import plugins
from estimators.settings import defaults, model_of, validated

if TYPE_CHECKING:
    from estimators.inverse.exact import ExactPosterior as ExactPosterior
    from estimators.inverse.mixture import GaussianMixture as GaussianMixture
    from estimators.inverse.noise_model import CategoricalNoise as CategoricalNoise
    from estimators.inverse.noise_model import Directional as Directional
    from estimators.inverse.noise_model import Gaussian as Gaussian
    from estimators.inverse.operators import Operator as Operator
    from estimators.inverse.operators import operator as operator
    from estimators.inverse.operators import operator_of as operator_of
    from estimators.inverse.prior import DiffusionPrior as DiffusionPrior
    from estimators.inverse.prior import EstimatorPrior as EstimatorPrior
    from estimators.inverse.solver import Solution as Solution
    from estimators.inverse.solver import Solver as Solver

__all__ = [
    "CategoricalNoise",
    "DiffusionPrior",
    "Directional",
    "EstimatorPrior",
    "ExactPosterior",
    "Gaussian",
    "GaussianMixture",
    "Operator",
    "Solution",
    "Solver",
    "arguments",
    "available",
    "create",
    "operator",
    "operator_of",
]

GROUP = "sbiflow.solvers"  # entry points of other packages

TABLE = {
    "cm_guidance": "estimators.inverse.cm_guidance:CMGuidance",
    "cm_inversion": "estimators.inverse.cm_inversion:CMInversion",
    "cm_smc": "estimators.inverse.cm_smc:CMSMC",
    "dps": "estimators.inverse.dps:DPS",
    "dps_ode": "estimators.inverse.dps_ode:DPSODE",
    "freedom": "estimators.inverse.freedom:FreeDoM",
    "lgd_mc": "estimators.inverse.lgd_mc:LGDMC",
    "mpgd": "estimators.inverse.mpgd:MPGD",
    "pgdm": "estimators.inverse.pgdm:PGDM",
}

_LAZY = {
    "CategoricalNoise": "noise_model",
    "Directional": "noise_model",
    "EstimatorPrior": "prior",
    "ExactPosterior": "exact",
    "Gaussian": "noise_model",
    "GaussianMixture": "mixture",
    "Operator": "operators",
    "DiffusionPrior": "prior",
    "Solution": "solver",
    "Solver": "solver",
    "operator": "operators",
    "operator_of": "operators",
}


def __getattr__(name: str) -> Any:
    # The names of the methods must be known without the price of importing torch.
    if name not in _LAZY:
        raise AttributeError(f"module 'estimators.inverse' has no attribute {name!r}")
    return getattr(importlib.import_module(f"estimators.inverse.{_LAZY[name]}"), name)


def available() -> list[str]:
    """Return the names of the built-in methods and of the installed plug-ins, sorted."""
    return plugins.available(TABLE, GROUP)


def resolve(name: str) -> type[Solver]:
    """Return the class of a method: built in, `package.module:attribute`, `file.py:attribute` or an entry point.

    Raises:
        LookupError: no method has this name.
        TypeError: what the name leads to is no `Solver` class.
    """
    found = plugins.find("method", name, TABLE, GROUP)
    from estimators.inverse.solver import Solver

    kind: type[Solver] = plugins.require_subclass("method", name, found, Solver)
    return kind


def arguments(name: str) -> dict[str, Any]:
    """Return the settings of a method, each with its default."""
    return defaults(model_of(resolve(name)))


def create(name: str, prior: DiffusionPrior, **settings: Any) -> Solver:
    """Return the solver of this name on a prior.

    Arguments:
        name: one of `available()`, `package.module:attribute` or `file.py:attribute`.
        prior: see `estimators.inverse.DiffusionPrior`.
        settings: see `arguments(name)`.

    Raises:
        LookupError: unknown method.
        TypeError: unknown setting.
        ValueError: a setting out of range, or a prior without what the method needs.
    """
    kind = resolve(name)
    validated(f"method {name!r}", model_of(kind), settings)
    made = kind(prior, **settings)
    made.name = name
    made.check_prior()
    return made
