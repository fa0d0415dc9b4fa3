"""Labels of a molecule's conformers by the DFT engine, as a record of the dataset."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from qmgen.dataset import MoleculeRecord, pack_symmetric
from qmgen.dft import ConformerLabels, DFTConfig, label_conformers
from qmgen.dft.conformer_labels import LINEAR_DEPENDENCE
from qmgen.dft.dispersion import dispersion
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.generate.config import RunConfig
from qmgen.generate.labelled_record import labelled_record
from qmgen.generate.spin import spin_columns, spin_label_names
from qmgen.molecules import Molecule


def label_by_dft(
    molecule: Molecule,
    index: Int[np.ndarray, " nconf"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: RunConfig,
    guess: OrbitalGuess | None,
) -> tuple[MoleculeRecord, list[tuple[int, str]]]:
    """Label conformers by Kohn-Sham or Hartree-Fock.

    Parameters
    ----------
    molecule
        Of the conformers.
    index
        Their numbers.
    positions
        Bohr.
    config
        Of the run.
    guess
        Predicts orbitals to start from.

    Returns
    -------
    Record of the conformers whose energy is a number, and place and reason of each conformer that
    did not converge.

    Raises
    ------
    UnsupportedMoleculeError
        As of `qmgen.dft.label_conformers`.
    """
    labels = label_conformers(
        molecule.atomic_numbers,
        positions,
        config.dft,
        charge=molecule.charge,
        spin=molecule.spin,
        guess=guess,
    )
    record = _record(molecule, index, positions, labels, config)
    return record, list(_problems(labels, config.dft))


def _problems(labels: ConformerLabels, config: DFTConfig) -> Iterator[tuple[int, str]]:
    """Row and reason of each conformer that did not converge."""
    for row in np.flatnonzero(~labels.converged):
        smallest = labels.smallest_overlap_eigenvalue[row]
        if not smallest > LINEAR_DEPENDENCE:
            yield (
                int(row),
                f"basis functions are linearly dependent (smallest overlap eigenvalue "
                f"{smallest:.1e}): coincident atoms or too large a basis",
            )
        else:
            yield (
                int(row),
                f"SCF not converged after {labels.iterations[row]} cycles and "
                f"{labels.attempts[row]} attempts (last energy change "
                f"{labels.energy_change[row]:.1e} Hartree, standard deviation of the last five "
                f"{labels.std_ev[row]:.1e} eV; criterion {config.criterion})",
            )


def _record(
    molecule: Molecule,
    index: np.ndarray,
    positions: Float[np.ndarray, "nconf nat 3"],
    labels: ConformerLabels,
    config: RunConfig,
) -> MoleculeRecord:
    """Record of the conformers whose energy is a number; others are failures only."""
    kept = np.isfinite(labels.energy)
    columns = {
        "index": index,
        "energy": labels.energy,
        "nuclear_repulsion": labels.nuclear_repulsion,
        "homo": labels.homo,
        "lumo": labels.lumo,
        "gap": labels.gap,
        "std": labels.std_ev,
        "energy_change": labels.energy_change,
        "converged": labels.converged,
        "iterations": labels.iterations,
        "attempts": labels.attempts,
        "dipole": labels.dipole,
        "quadrupole": labels.quadrupole,
        "pos": positions,
        "mulliken_charges": labels.mulliken_charges,
        "orbital_energies": labels.orbital_energies,
        **_dispersion_columns(molecule, positions, labels.converged, config),
    }
    if config.labels.forces:
        columns["forces"] = nuclear_forces(
            molecule.atomic_numbers,
            positions,
            config.dft,
            labels,
            charge=molecule.charge,
            spin=molecule.spin,
            grid_response=config.labels.forces_grid_response,
        )
    if config.labels.density_matrix:
        columns["density_matrix"] = pack_symmetric(labels.density)
    if config.labels.fock_matrix:
        columns["fock_matrix"] = pack_symmetric(labels.fock)
    optional_labels = config.labels.optional_labels
    if labels.spin is not None:
        columns |= spin_columns(labels.spin, config.labels)
        optional_labels += spin_label_names(config.labels)
    kept_columns = {name: np.ascontiguousarray(values[kept]) for name, values in columns.items()}
    nao = labels.orbital_energies.shape[1]
    return labelled_record(molecule, nao, kept_columns, optional_labels)


def _dispersion_columns(
    molecule: Molecule,
    positions: Float[np.ndarray, "nconf nat 3"],
    converged: Bool[np.ndarray, " nconf"],
    config: RunConfig,
) -> dict[str, np.ndarray]:
    """Dispersion of converged conformers; NaN for others, whose atoms may coincide."""
    model = config.labels.dispersion
    if model is None:
        return {}
    energies = np.full(len(positions), np.nan)
    forces = np.full(positions.shape, np.nan)
    for row in np.flatnonzero(converged):
        result = dispersion(
            molecule.atomic_numbers,
            positions[row],
            model,
            config.dft.functional,
            molecule.charge,
        )
        energies[row], forces[row] = result.energy, -result.gradient
    columns: dict[str, np.ndarray] = {"dispersion_energy": energies}
    if config.labels.forces:
        columns["dispersion_forces"] = forces
    return columns
