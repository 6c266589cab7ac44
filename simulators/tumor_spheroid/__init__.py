"""The tumour spheroid: `model.py` the simulator, `kernel.py` its rules, `lattice.py` the sites."""

from simulators.tumor_spheroid.lattice import Lattice, lattice
from simulators.tumor_spheroid.model import TumorSpheroid

__all__ = ["Lattice", "TumorSpheroid", "lattice"]
