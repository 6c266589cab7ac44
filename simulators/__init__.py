"""Simulators with priors: your own in ten lines, built-in ones with their exact posteriors.

Importing this package needs numpy alone.
"""

from simulators.distribution import (
    Distribution,
    LogNormal,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
)
from simulators.prior import Independent, MultivariateNormal, Prior, prior_from
from simulators.program import Program
from simulators.recipe import simulator
from simulators.registry import available, load
from simulators.simulator import Simulator

__all__ = [
    "Distribution",
    "Independent",
    "LogNormal",
    "LogUniform",
    "MultivariateNormal",
    "Normal",
    "Prior",
    "Program",
    "Simulator",
    "TruncatedNormal",
    "Uniform",
    "available",
    "load",
    "prior_from",
    "simulator",
]
