"""The same calculation in PySCF itself, as the reference for validation and benchmarks."""

from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from pyscf import dft, gto, scf
from pyscf.data.elements import ELEMENTS

from qmgen.dft.basis import build_basis, element_shells, pyscf_knows
from qmgen.dft.basis_file import is_basis_text
from qmgen.dft.cartesian import cartesian_to_orbitals, libcint_kind, mixes_kinds
from qmgen.dft.config import DFTConfig
from qmgen.dft.density_fitting import auxiliary_shells
from qmgen.dft.functionals import get_functional


def pyscf_calculation(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nat 3"],
    config: DFTConfig,
    charge: int = 0,
    spin: int = 0,
) -> scf.hf.SCF:
    """PySCF's calculation with the options of a configuration, not yet run.

    Closed shells are restricted, open ones unrestricted. Integrals are exact or fitted as the
    configuration says, never Cholesky vectors; the grid, guess and energy threshold are the same.
    Cycles are PySCF's own default. PySCF's bases are Cartesian or pure as a whole. Where the
    configuration mixes both, PySCF works in the Cartesian basis and its orbitals are held to what
    the mixed one spans.

    Parameters
    ----------
    atomic_numbers, positions, charge, spin
        Of the molecule; Bohr, elementary charges and 2S.
    config
        Level of theory.
    """
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    atoms = [(int(z), tuple(xyz)) for z, xyz in zip(atomic_numbers, positions, strict=True)]
    mol = gto.M(
        atom=atoms,
        unit="Bohr",
        basis=_pyscf_basis(atomic_numbers, config.basis),
        cart=libcint_kind(basis) == "cart",
        charge=charge,
        spin=spin,
        verbose=0,
    )
    functional = get_functional(config.functional)
    if functional.terms:
        calculation = (dft.UKS if spin else dft.RKS)(mol, xc=functional.pyscf_name)
        calculation.grids.level = config.grid_level
    else:
        # By its class: of one electron, scf.UHF would make virtual orbitals without repulsion.
        calculation = scf.uhf.UHF(mol) if spin else scf.RHF(mol)
    if config.two_electron == "density_fitting":
        shells = auxiliary_shells(atomic_numbers, config.basis, config.auxiliary_basis)
        auxiliary = {ELEMENTS[z]: of_element for z, of_element in shells.items()}
        calculation = calculation.density_fit(auxbasis=auxiliary)
    # What float32 cycles aim at is the float64 result.
    double = config.model_copy(update={"precision": "float64"})
    calculation.conv_tol = double.energy_tolerance
    if mixes_kinds(basis):
        _hold_to_span(calculation, cartesian_to_orbitals(basis).toarray())
    return calculation


def _pyscf_basis(atomic_numbers: Int[np.ndarray, " nat"], basis: str) -> str | dict[str, Any]:
    """A basis as PySCF takes it: names that it knows are left to its own look-up."""
    if not is_basis_text(basis) and pyscf_knows(basis):
        return basis
    return {ELEMENTS[z]: list(element_shells(basis, int(z))) for z in np.unique(atomic_numbers)}


def _hold_to_span(calculation: scf.hf.SCF, T: Float[np.ndarray, "ncart nao"]) -> None:
    """Let a calculation's orbitals be combinations of the columns of T only."""
    S = calculation.get_ovlp()
    X = T @ np.asarray(scipy.linalg.inv(scipy.linalg.sqrtm(T.T @ S @ T)).real)

    def eig(h: np.ndarray, s: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, np.ndarray]:
        # Of two spins there are two matrices.
        energies, C = np.linalg.eigh(X.T @ h @ X)
        return energies, X @ C

    calculation.eig = eig
    # PySCF's name for what gives its DIIS the orthonormal orbitals to compare in.
    calculation.check_linear_dependency = lambda *_, **__: X
