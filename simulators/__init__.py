"""Simulators with priors: your own in ten lines, built-in ones with their exact posteriors.

Importing this package needs numpy alone.
"""

from simulators.data_prior import DataPrior
from simulators.dirichlet import Dirichlet
from simulators.discrete import Categorical, Integer
from simulators.distribution import (
    Distribution,
    LogNormal,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
)
from simulators.factory import simulator
from simulators.output import OutputError
from simulators.prior import Independent, MultivariateNormal, Prior
from simulators.prior_spec import Product, prior_from
from simulators.program import Program
from simulators.registry import available, define, load
from simulators.simulator import Simulator

__all__ = [
    "Categorical",
    "DataPrior",
    "Dirichlet",
    "Distribution",
    "Independent",
    "Integer",
    "LogNormal",
    "LogUniform",
    "MultivariateNormal",
    "Normal",
    "OutputError",
    "Prior",
    "Product",
    "Program",
    "Simulator",
    "TruncatedNormal",
    "Uniform",
    "available",
    "define",
    "load",
    "prior_from",
    "simulator",
]
