"""Sizes of a molecule's program, what they cost in memory, and how integrals are held."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from qmgen.dft.basis import Basis, build_basis
from qmgen.dft.cartesian import libcint_kind
from qmgen.dft.cholesky import cholesky_integrals
from qmgen.dft.config import DFTConfig
from qmgen.dft.density_fitting import auxiliary_basis, density_fitting_engine
from qmgen.dft.factorised import padded_factor_number
from qmgen.dft.functionals import get_functional
from qmgen.dft.grid import grid_size
from qmgen.dft.integrals import IntegralEngine, libcint_integrals
from qmgen.dft.native_integrals import native_engine, native_pays, native_plan
from qmgen.dft.range_separation import range_separated_engine
from qmgen.dft.two_electron import packed_size
from qmgen.errors import UnsupportedMoleculeError

# Largest memory that one conformer's integrals and orbitals on the grid may take, bytes.
MAX_BYTES_PER_CONFORMER = 8 * 2**30
# Points a block of the grid: orbitals and gradients of 60 orbitals on it fill 1 MB, a core's
# second-level cache.
GRID_BLOCK = 512
# Numbers of orbitals are padded to a multiple of this.
ORBITAL_STEP = 8
# Atoms and points likewise, which costs no time: blocks without a point are passed over. Where
# points are few, programs' compilation counts for more. 240 molecules of 5 to 9 heavy atoms then
# have 7 programs on grid level 0.
ATOM_STEP = 32
_POINT_STEP = 4096
_FEW_POINTS = 16384
# Most orbitals whose distinct integrals are held; beyond, Cholesky vectors are. Labels of B3LYP on
# grid level 1 took, on one core of an AMD EPYC with AVX2, with all integrals and with vectors:
# 0.9 and 1.1 s at 56 orbitals, 3.3 and 3.3 s at 96 (in 0.8 and 0.3 GiB), 5.3 and 5.1 s at 112, 13.6
# and 7.4 s at 136.
LARGEST_PACKED_NAO = 96
# Cholesky vectors per orbital that memory is reserved for; 9 to 14 were found.
_VECTORS_PER_ORBITAL = 15


@dataclass(frozen=True)
class ProgramShape:
    """Sizes that a compiled program depends on; molecules that share them share the program.

    ``nfactors`` is the number of three-index factors of the two-electron integrals, 0 where each
    distinct integral is held. A Cholesky decomposition gets as many as the conformer needs; here
    is what memory is reserved for. ``long_range`` tells whether there are as many of erf(ω r)/r.
    """

    natoms: int
    nprim: int
    max_l: int
    nao: int
    npoints: int
    nfactors: int
    long_range: bool = False


def program_shape(atomic_numbers: Int[np.ndarray, " nat"], config: DFTConfig) -> ProgramShape:
    """Padded sizes of a molecule's program.

    Raises
    ------
    UnknownBasisError, MissingElementError, UnsupportedMoleculeError
        As `qmgen.dft.basis.build_basis`.
    """
    return shape_of(build_basis(atomic_numbers, config.basis, config.cartesian), config)


def shape_of(basis: Basis, config: DFTConfig) -> ProgramShape:
    """Padded sizes of the program of a molecule with a basis."""
    uses_grid = bool(get_functional(config.functional).terms)
    points = grid_size(basis.atomic_numbers, config.grid_level) if uses_grid else 0
    return ProgramShape(
        natoms=round_up(len(basis.atomic_numbers), ATOM_STEP),
        nprim=basis.exponents.shape[1],
        max_l=basis.max_l,
        nao=round_up(basis.nao, ORBITAL_STEP),
        npoints=round_up(points, _POINT_STEP if points > _FEW_POINTS else 2 * _POINT_STEP),
        nfactors=_factor_number(basis, config),
        long_range=bool(get_functional(config.functional).long_range_exchange),
    )


def round_up(n: int, step: int) -> int:
    """Smallest multiple of a step that is not smaller than n."""
    return -(-n // step) * step


def _factor_number(basis: Basis, config: DFTConfig) -> int:
    if config.two_electron == "density_fitting":
        auxiliary = auxiliary_basis(
            basis.atomic_numbers, config.basis, config.auxiliary_basis, libcint_kind(basis)
        )
        return padded_factor_number(auxiliary.nao)
    if basis.nao > LARGEST_PACKED_NAO:
        return padded_factor_number(_VECTORS_PER_ORBITAL * basis.nao)
    return 0


def default_engine(
    basis: Basis,
    positions: Float[np.ndarray, "nconf nat 3"],
    shape: ProgramShape,
    config: DFTConfig,
) -> tuple[IntegralEngine, int]:
    """What computes the integrals of a molecule's conformers unless the caller says otherwise.

    Returns
    -------
    The engine, and for how many conformers at a time it is asked at best.
    """
    if config.two_electron == "density_fitting":
        return density_fitting_engine(config.basis, config.auxiliary_basis), 1
    functional = get_functional(config.functional)
    if functional.long_range_exchange:
        return range_separated_engine(functional.omega, factorised=bool(shape.nfactors)), 1
    if shape.nfactors:
        return cholesky_integrals, 1
    if native_pays(basis, len(positions)):
        plan = native_plan(basis, positions, config.precision)
        # Integrals of all lanes, once more while they are put in order, and their blocks.
        if 8 * plan.lanes.number * 4 * packed_size(basis.nao) < MAX_BYTES_PER_CONFORMER:
            return native_engine(plan), plan.lanes.number
    return libcint_integrals, 1


def bytes_per_conformer(shape: ProgramShape, precision: str) -> int:
    """Estimate of the most memory that labelling one conformer takes, beside fixed costs."""
    npair = shape.nao * (shape.nao + 1) // 2
    if shape.nfactors:
        # Factors padded and on the device; in float32 unpacked besides, with what exchange near a
        # reference takes. Measured at 168 orbitals on 82000 points, with 0.3 to 0.5 GiB for
        # compilation: 1.5 GiB in float64, 2.2 GiB in mixed, 3.2 GiB in mixed with long range.
        copies = 2 if precision == "float64" else 3
        two_electron = copies * shape.nfactors * npair * (2 if shape.long_range else 1)
    else:
        # Distinct integrals as libcint gives them, padded, and on the device; the supermatrix with
        # its working copy. Measured at 148 orbitals: 4.7 GiB in all.
        two_electron = 3 * packed_size(shape.nao) + 2 * npair * npair
    orbitals_with_gradients = 4 * shape.npoints * shape.nao
    # Cycles in float32 have everything once more, in half the size.
    return (8 if precision == "float64" else 12) * (two_electron + orbitals_with_gradients)


def check_memory(shape: ProgramShape, precision: str) -> None:
    """Raise `UnsupportedMoleculeError` where a conformer's integrals would not fit."""
    needed = bytes_per_conformer(shape, precision)
    if needed > MAX_BYTES_PER_CONFORMER:
        raise UnsupportedMoleculeError(
            f"{shape.nao} orbitals on {shape.npoints} grid points: a conformer's integrals and "
            f"orbitals need {needed / 2**30:.0f} GiB, more than the "
            f"{MAX_BYTES_PER_CONFORMER / 2**30:.0f} GiB that are allowed; use a smaller basis or "
            "grid, float64, or two_electron: density_fitting"
        )
