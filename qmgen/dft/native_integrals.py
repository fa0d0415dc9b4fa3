"""Integrals of a molecule's conformers with the two-electron ones made in JAX."""

from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Lanes:
    """Conformers that a program works on at once; fewer are filled up to as many.

    Attributes
    ----------
    number
        How many.
    least
        Fewer conformers than this are not worth it.
    single_below
        Estimates of integrals above which they are computed in float64, by the precision of the
        labels, Hartree.
    """

    number: int
    least: int
    single_below: dict[str, float]


# An operation on 64 numbers at a time hides what starting it takes. The estimate exceeds the
# integral by one to three orders of magnitude: with 1 Hartree the total energy of 20 atoms in
# STO-3G was off by 2e-8 Hartree, with 10 Hartree by 4e-7.
MANY = Lanes(64, 24, {"float64": SINGLE_PRECISION_INTEGRAL, "mixed": 1.0, "float32": np.inf})
# Of few conformers a second precision saves less time than its programs take to compile.
FEW = Lanes(8, 5, {"float64": 0.0, "mixed": 0.0, "float32": np.inf})
# Two kinds of shells are six programs in each precision, which take ten seconds to compile where no
# earlier run left them in the cache, and their gradients twenty; three would be 21, some of them
# ten times as long.
_MOST_SHELL_KINDS = 2
# Of s and p shells; programs of higher ones grow too large.
_HIGHEST_ANGULAR = 1


@dataclass(frozen=True, eq=False)
class NativePlan:
    """Plan of the integrals of a molecule's conformers, and how many are made at once."""

    repulsion: RepulsionPlan
    lanes: Lanes


def native_pays(basis: Basis, nconf: int) -> bool:
    """Whether integrals made in JAX are worth their compilation, for conformers of one molecule."""
    kinds = {shell.kind for shell in shared_shells(basis)}
    return (
        len(kinds) <= _MOST_SHELL_KINDS and basis.max_l <= _HIGHEST_ANGULAR and nconf >= FEW.least
    )


def native_plan(
    basis: Basis, positions: Float[np.ndarray, "nconf nat 3"], precision: str
) -> NativePlan:
    """Plan of a molecule's integrals, which holds for all of its conformers at these positions."""
    lanes = MANY if len(positions) >= MANY.least else FEW
    with double_precision():
        return NativePlan(plan_repulsion(basis, positions, lanes.single_below[precision]), lanes)


def fill_lanes(
    lanes: Lanes, conformers: Float[np.ndarray, "n *x"]
) -> Float[np.ndarray, "nlane *x"]:
    """Conformers with the last one repeated until they fill whole programs."""
    widths = [(0, -len(conformers) % lanes.number)] + [(0, 0)] * (conformers.ndim - 1)
    return np.pad(conformers, widths, mode="edge")


def native_engine(plan: NativePlan) -> IntegralEngine:
    """Engine for conformers that a plan was made for.

    Parameters
    ----------
    plan
        Of the molecule and precision.
    """

    def integrals(basis: Basis, positions: Positions) -> Integrals:
        # Those of a second attempt may be few.
        if len(positions) < plan.lanes.least:
            return libcint_integrals(basis, positions)
        filled = fill_lanes(plan.lanes, positions)
        eri = [
            electron_repulsion(plan.repulsion, part)
            for part in np.split(filled, len(filled) // plan.lanes.number)
        ]
        one_electron = libcint_one_electron_integrals(basis, positions)
        together = np.concatenate if isinstance(eri[0], np.ndarray) else jnp.concatenate
        return replace(
            one_electron, eri=(together(eri) if len(eri) > 1 else eri[0])[: len(positions)]
        )

    return integrals
