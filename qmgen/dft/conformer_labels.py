"""What a conformer's label holds, as the program gives it and as callers get it."""

from dataclasses import dataclass

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.basis import Basis
from qmgen.dft.scf import SCFResult
from qmgen.dft.unrestricted import SpinResult

# Smallest eigenvalue of the overlap below which the basis counts as linearly dependent: the
# orbitals' coefficients then carry rounding errors above the accuracy that is promised.
LINEAR_DEPENDENCE = 1e-9


@dataclass(frozen=True, eq=False)
class SpinLabels:
    """What conformers of an open shell have beside the other labels; atomic units.

    Attributes
    ----------
    orbital_energies_beta
        Of spin b, ascending, Hartree.
    spin_square
        <S^2>; S (S + 1) where the spins are not contaminated.
    mulliken_spins
        Unpaired electrons of each atom by Mulliken's analysis.
    spin_density
        Density matrices of spin a minus those of spin b.
    fock_beta
        Fock (Kohn-Sham) matrices of spin b, Hartree.
    """

    orbital_energies_beta: Float[np.ndarray, "nconf nao"]
    spin_square: Float[np.ndarray, " nconf"]
    mulliken_spins: Float[np.ndarray, "nconf nat"]
    spin_density: Float[np.ndarray, "nconf nao nao"]
    fock_beta: Float[np.ndarray, "nconf nao nao"]


@dataclass(frozen=True, eq=False)
class ConformerLabels:
    """Labels of a molecule's conformers; atomic units unless the name says otherwise.

    Attributes
    ----------
    energy, nuclear_repulsion
        Total energy, and the part of it between nuclei, Hartree.
    homo, lumo, gap
        Frontier orbital energies and their difference, Hartree; NaN where there is no virtual
        orbital. Of an open shell the highest occupied and lowest virtual one over both spins.
    orbital_energies
        All orbital energies in ascending order, Hartree; of spin a.
    dipole
        About the coordinates' origin, elementary charge times Bohr.
    quadrupole
        Traceless, in Buckingham's convention, about the centre of nuclear charge; elementary
        charge times Bohr^2.
    mulliken_charges
        Elementary charges.
    converged, iterations, attempts
        Whether the SCF converged, in how many cycles, at which attempt (2 is the one with level
        shift and damping).
    energy_change
        Of the last SCF cycle, Hartree.
    std_ev
        Standard deviation of the last five SCF energies, eV; QM1B's measure of convergence.
    density
        Density matrices of both spins, e.g. to start a neighbouring conformer from.
    smallest_overlap_eigenvalue
        How far the basis is from linear dependence.
    fock
        Fock (Kohn-Sham) matrices of the final density, Hartree; of spin a.
    spin
        What open shells have besides; None for closed ones, whose spins are alike.
    """

    energy: Float[np.ndarray, " nconf"]
    nuclear_repulsion: Float[np.ndarray, " nconf"]
    homo: Float[np.ndarray, " nconf"]
    lumo: Float[np.ndarray, " nconf"]
    gap: Float[np.ndarray, " nconf"]
    orbital_energies: Float[np.ndarray, "nconf nao"]
    dipole: Float[np.ndarray, "nconf 3"]
    quadrupole: Float[np.ndarray, "nconf 3 3"]
    mulliken_charges: Float[np.ndarray, "nconf nat"]
    converged: Bool[np.ndarray, " nconf"]
    iterations: Int[np.ndarray, " nconf"]
    attempts: Int[np.ndarray, " nconf"]
    energy_change: Float[np.ndarray, " nconf"]
    std_ev: Float[np.ndarray, " nconf"]
    density: Float[np.ndarray, "nconf nao nao"]
    fock: Float[np.ndarray, "nconf nao nao"]
    smallest_overlap_eigenvalue: Float[np.ndarray, " nconf"]
    spin: SpinLabels | None = None


class RawSpin(eqx.Module):
    """Padded labels of a batch that open shells have besides."""

    scf: SpinResult
    mulliken_spins: Float[Array, "*nconf nat"]


class RawLabels(eqx.Module):
    """Padded labels of a batch."""

    scf: SCFResult
    spin: RawSpin | None
    nuclear_repulsion: Float[Array, "*nconf"]
    dipole: Float[Array, "*nconf 3"]
    quadrupole: Float[Array, "*nconf 3 3"]
    mulliken_charges: Float[Array, "*nconf nat"]
    smallest_overlap_eigenvalue: Float[Array, "*nconf"]


def unpad(
    basis: Basis, noccupied: tuple[int, int], raw: RawLabels, attempts: Int[np.ndarray, " nconf"]
) -> ConformerLabels:
    """Labels without padding.

    Parameters
    ----------
    basis
        Of the molecule.
    noccupied
        Number of occupied orbitals of each spin.
    raw
        Padded labels of its conformers.
    attempts
        Which attempt each one is of.
    """
    nao, nat = basis.nao, len(basis.atomic_numbers)
    scf = raw.scf
    orbital_energies = np.asarray(scf.mo_energy)[:, :nao]
    spin = None if raw.spin is None else _unpad_spin(raw.spin, nao, nat)
    of_spins = [orbital_energies, orbital_energies if spin is None else spin.orbital_energies_beta]
    homo, lumo = _frontier(of_spins, noccupied)
    smallest = np.asarray(raw.smallest_overlap_eigenvalue)
    return ConformerLabels(
        energy=np.asarray(scf.energy),
        nuclear_repulsion=np.asarray(raw.nuclear_repulsion),
        homo=homo,
        lumo=lumo,
        gap=lumo - homo,
        orbital_energies=orbital_energies,
        dipole=np.asarray(raw.dipole),
        quadrupole=np.asarray(raw.quadrupole),
        mulliken_charges=np.asarray(raw.mulliken_charges)[:, :nat],
        converged=np.asarray(scf.converged) & (smallest > LINEAR_DEPENDENCE),
        iterations=np.asarray(scf.iterations, np.int16),
        attempts=attempts,
        energy_change=np.asarray(scf.energy_change),
        std_ev=np.asarray(scf.std_ev),
        density=np.asarray(scf.density)[:, :nao, :nao],
        fock=np.asarray(scf.fock)[:, :nao, :nao],
        smallest_overlap_eigenvalue=smallest,
        spin=spin,
    )


def _unpad_spin(raw: RawSpin, nao: int, nat: int) -> SpinLabels:
    scf = raw.scf
    return SpinLabels(
        orbital_energies_beta=np.asarray(scf.mo_energy_beta)[:, :nao],
        spin_square=np.asarray(scf.spin_square),
        mulliken_spins=np.asarray(raw.mulliken_spins)[:, :nat],
        spin_density=np.asarray(scf.spin_density)[:, :nao, :nao],
        fock_beta=np.asarray(scf.fock_beta)[:, :nao, :nao],
    )


def _frontier(
    orbital_energies: list[Float[np.ndarray, "nconf nao"]], noccupied: tuple[int, int]
) -> tuple[Float[np.ndarray, " nconf"], Float[np.ndarray, " nconf"]]:
    """Highest occupied and lowest virtual orbital over both spins; NaN where there is none."""
    nothing = np.full(len(orbital_energies[0]), np.nan)
    spins = list(zip(orbital_energies, noccupied, strict=True))
    homo = [e[:, n - 1] for e, n in spins if n > 0]
    lumo = [e[:, n] for e, n in spins if n < e.shape[1]]
    return np.maximum.reduce(homo), np.minimum.reduce(lumo) if lumo else nothing
