"""Integrals of a molecule's conformers with the two-electron ones made in JAX."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qmgen.dft.basis import Basis
from qmgen.dft.electron_repulsion import (
    SINGLE_PRECISION_INTEGRAL,
    RepulsionPlan,
    electron_repulsion,
    plan_repulsion,
)
from qmgen.dft.integrals import (
    IntegralEngine,
    Integrals,
    Positions,
    libcint_integrals,
    libcint_one_electron_integrals,
)
from qmgen.dft.precision import double_precision
from qmgen.dft.repulsion_pairs import shared_shells

# Conformers that a program works on. An operation on 64 numbers at a time hides what starting it
# takes; fewer conformers are filled up to as many.
LANES = 64
# Fewer conformers than this are left to libcint.
LEAST_CONFORMERS = 24
# Two kinds of shells are six programs in each precision, which take half a minute to compile where
# no earlier run left them in the cache; three would be 21, some of them ten times as long.
_MOST_SHELL_KINDS = 2
# Of s and p shells; programs of higher ones grow too large.
_HIGHEST_ANGULAR = 1
# Estimates of integrals above which they are computed in float64, by the precision of the labels.
# The estimate exceeds the integral by one to three orders of magnitude. With 1 Hartree the total
# energy of 20 atoms in STO-3G was off by 2e-8 Hartree, with 10 Hartree by 4e-7.
_SINGLE_BELOW = {"float64": SINGLE_PRECISION_INTEGRAL, "mixed": 1.0, "float32": np.inf}


def native_pays(basis: Basis, nconf: int) -> bool:
    """Whether integrals made in JAX are worth their compilation, for conformers of one molecule."""
    kinds = {shell.kind for shell in shared_shells(basis)}
    return (
        len(kinds) <= _MOST_SHELL_KINDS
        and basis.max_l <= _HIGHEST_ANGULAR
        and nconf >= LEAST_CONFORMERS
    )


def native_plan(
    basis: Basis, positions: Float[np.ndarray, "nconf nat 3"], precision: str
) -> RepulsionPlan:
    """Plan of a molecule's integrals, which holds for all of its conformers at these positions."""
    with double_precision():
        return plan_repulsion(basis, positions, _SINGLE_BELOW[precision])


def native_engine(plan: RepulsionPlan) -> IntegralEngine:
    """Engine for conformers that a plan was made for.

    Parameters
    ----------
    plan
        Of the molecule and precision.
    """

    def integrals(basis: Basis, positions: Positions) -> Integrals:
        if len(positions) < LEAST_CONFORMERS:
            return libcint_integrals(basis, positions)
        lanes = np.pad(positions, ((0, -len(positions) % LANES), (0, 0), (0, 0)), mode="edge")
        eri = [
            electron_repulsion(plan, jnp.asarray(lanes[start : start + LANES]))
            for start in range(0, len(lanes), LANES)
        ]
        one_electron = libcint_one_electron_integrals(basis, positions)
        return replace(
            one_electron,
            eri=np.concatenate(eri)[: len(positions)] if len(eri) > 1 else eri[0][: len(positions)],
        )

    return integrals
