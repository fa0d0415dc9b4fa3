"""Integrals of a molecule's conformers with the two-electron ones made in JAX."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qmgen.dft.basis import Basis
from qmgen.dft.electron_repulsion import electron_repulsion, plan_repulsion
from qmgen.dft.integrals import (
    IntegralEngine,
    Integrals,
    Positions,
    libcint_one_electron_integrals,
)
from qmgen.dft.precision import double_precision
from qmgen.dft.repulsion_pairs import shared_shells

# Each pair of kinds of shell pairs is a program of its own, which takes seconds to compile: 6 of
# them for the 2 kinds of shells of STO-3G, 231 for the 6 of 6-31G*.
MOST_SHELL_KINDS = 2
# Compiling takes half a minute where no earlier run left the programs in the cache; a label of 56
# orbitals then takes 0.3 s less than with libcint.
LEAST_CONFORMERS = 32


def native_pays(basis: Basis, nconf: int) -> bool:
    """Whether integrals made in JAX are worth their compilation, for conformers of one molecule."""
    kinds = {shell.kind for shell in shared_shells(basis)}
    return len(kinds) <= MOST_SHELL_KINDS and nconf >= LEAST_CONFORMERS


def native_engine(basis: Basis, positions: Float[np.ndarray, "nconf nat 3"]) -> IntegralEngine:
    """Engine for conformers of one molecule, with screening that holds for all of them.

    Parameters
    ----------
    basis
        Of the molecule.
    positions
        Of the conformers that the engine will be asked for, Bohr.
    """
    with double_precision():
        plan = plan_repulsion(basis, positions)

    def integrals(basis: Basis, positions: Positions) -> Integrals:
        eri = jnp.stack([electron_repulsion(plan, jnp.asarray(p)) for p in positions])
        return replace(libcint_one_electron_integrals(basis, positions), eri=eri)

    return integrals
