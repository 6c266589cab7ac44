"""Approximate Bayesian computation with pyABC on our simulation actors: a baseline for any simulator.

`model.py` says prior and simulator in pyABC's terms, `sampler.py` is pyABC's map over the actors, `smc.py`
the run.
"""

from pipeline.abc.smc import AbcResult, abc_smc, standardised_squares

__all__ = ["AbcResult", "abc_smc", "standardised_squares"]
