"""The tumour spheroid: `model.py` the simulator, `kernel.py` its rules, `lattice.py` the sites.

Definition: Parallelization and High-Performance Computing Enables Automated Statistical Inference of
Multi-scale Models (2017, Cell Systems 4:194-206), in the configuration and with the prior of
Consistency Models for Scalable and Fast Simulation-Based Inference (2023, arXiv 2312.05440).

`picture.py` draws a spheroid in time; it is not imported here, and imports matplotlib when it draws.
"""

from simulators.tumor_spheroid.lattice import Lattice, lattice
from simulators.tumor_spheroid.model import TumorSpheroid

__all__ = ["Lattice", "TumorSpheroid", "lattice"]
