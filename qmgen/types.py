"""Array aliases and the glossary of axes that shape annotations use.

Axes: ``nconf`` conformers, ``nat`` atoms (hydrogens included), ``nao`` atomic orbitals,
``nmo`` molecular orbitals, ``nshell`` shells, ``nprim`` primitives a shell, ``ngrid`` points of
the integration grid, ``npair`` = nao (nao + 1) / 2 orbital pairs.
"""

import numpy as np
from jaxtyping import Float, Int

PositionsAngstrom = Float[np.ndarray, "nconf nat 3"]
AtomicNumbers = Int[np.ndarray, " nat"]
