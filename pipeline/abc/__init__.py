"""Approximate Bayesian computation with pyABC on the simulation actors: a baseline for any simulator.

`model.py` adapts prior and simulator to pyABC, `sampler.py` runs its simulations on the actors, `smc.py` is the
sequential Monte Carlo run. `proposal.py` has the densities of its generations, `stored.py` writes their rows to a
store, and `history.py` writes rows for pyABC.
"""

from pipeline.abc.from_pyabc import simulator_from_pyabc
from pipeline.abc.kept import rows
from pipeline.abc.smc import AbcResult, abc_smc, standardised_squares

__all__ = ["AbcResult", "abc_smc", "rows", "simulator_from_pyabc", "standardised_squares"]
