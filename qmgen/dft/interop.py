"""The same calculation in PySCF itself, as the reference for validation and benchmarks."""

import numpy as np
from jaxtyping import Float, Int
from pyscf import dft, gto, scf

from qmgen.dft.config import DFTConfig
from qmgen.dft.functionals import get_functional


def pyscf_calculation(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nat 3"],
    config: DFTConfig,
    charge: int = 0,
) -> scf.hf.SCF:
    """PySCF's restricted calculation with the options of a configuration, not yet run.

    Exact integrals, the same grid, guess and energy threshold. Cycles are PySCF's own default.

    Parameters
    ----------
    atomic_numbers, positions, charge
        Of the molecule; Bohr and elementary charges.
    config
        Level of theory.
    """
    atoms = [(int(z), tuple(xyz)) for z, xyz in zip(atomic_numbers, positions, strict=True)]
    mol = gto.M(atom=atoms, unit="Bohr", basis=config.basis, charge=charge, verbose=0)
    functional = get_functional(config.functional)
    if functional.terms:
        calculation = dft.RKS(mol, xc=functional.pyscf_name)
        calculation.grids.level = config.grid_level
    else:
        calculation = scf.RHF(mol)
    # What float32 cycles aim at is the float64 result.
    double = config.model_copy(update={"precision": "float64"})
    calculation.conv_tol = double.energy_tolerance
    return calculation
