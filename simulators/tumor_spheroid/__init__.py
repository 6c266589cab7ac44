"""The tumour spheroid: `model.py` the simulator, `kernel.py` its rules, `lattice.py` the sites.

`picture.py` draws a spheroid in time; it is not imported here, and imports matplotlib when it draws.
"""

from simulators.tumor_spheroid.lattice import Lattice, lattice
from simulators.tumor_spheroid.model import TumorSpheroid

__all__ = ["Lattice", "TumorSpheroid", "lattice"]
