"""Labels one batch: molecules in, records out. Knows nothing of Dask or files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pyscf import lib

from qmgen.dataset import Failure, MoleculeRecord, check_record, pack_symmetric
from qmgen.dft import ConformerLabels, DFTConfig, label_conformers
from qmgen.dft.compilation_cache import use_compilation_cache
from qmgen.dft.conformer_labels import LINEAR_DEPENDENCE
from qmgen.dft.dispersion import dispersion
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.dft.process_memory import forget_programs, keep_freed_memory
from qmgen.errors import ConformerError, UnsupportedMoleculeError
from qmgen.generate.config import RunConfig
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.spin import spin_columns, spin_label_names
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers
from qmgen.units import BOHR_PER_ANGSTROM


@dataclass(frozen=True)
class LabelledSlice:
    """Outcome for one slice of a molecule; without record if nothing was labelled."""

    number: int
    record: MoleculeRecord | None
    failures: tuple[Failure, ...]


def prepare_process(threads: int) -> None:
    """Let this process compute on a number of cores, and share compiled programs with others.

    XLA reads its settings when its first program is compiled, so later calls change libcint only.
    """
    if threads == 1:
        single = "--xla_cpu_multi_thread_eigen=false"
        flags = os.environ.get("XLA_FLAGS", "")
        if single not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {single}".strip()
    # What XLA takes the number of cores from. Its threads would otherwise be as many as the machine
    # has cores, and those without work look for it on cores that other workers compute on: with
    # two workers on two cores a third of the time.
    os.environ["NPROC"] = str(threads)
    lib.num_threads(threads)
    keep_freed_memory()
    use_compilation_cache()


def label_batch(
    batch: Batch, config: RunConfig, threads: int, guess: OrbitalGuess | None = None
) -> list[LabelledSlice]:
    """Embed and label every slice of a batch.

    A molecule that can't be embedded or labelled becomes a `Failure`; the others go on.
    """
    prepare_process(threads)
    results = []
    for part in batch.slices:
        forget_programs()
        results.append(_label_slice(part, config, guess))
    return results


@lru_cache(maxsize=4)
def _conformers(
    molecule_json: str, config: ConformerConfig, seed: int
) -> Float[np.ndarray, "nconf nat 3"]:
    """Positions in Angstrom, kept for the next slice of a molecule with many conformers."""
    return embed_conformers(Molecule.from_json(molecule_json), config, seed)


def _label_slice(part: Slice, config: RunConfig, guess: OrbitalGuess | None) -> LabelledSlice:
    molecule = Molecule.from_json(part.molecule_json)

    def failure(stage: Literal["embed", "label"], reason: str, conformer: int = -1) -> Failure:
        return Failure(
            molecule.line,
            molecule.source_id,
            molecule.smiles,
            conformer,
            stage,
            reason,
        )

    try:
        positions_angstrom = _conformers(part.molecule_json, config.conformers, config.seed)
    except ConformerError as error:
        # Told once, by the molecule's first slice.
        failures = (failure("embed", str(error)),) if part.start == 0 else ()
        return LabelledSlice(part.number, None, failures)
    index = np.arange(len(positions_angstrom), dtype=np.int32)[part.start : part.stop]
    if not len(index):
        return LabelledSlice(part.number, None, ())
    positions = positions_angstrom[index] * BOHR_PER_ANGSTROM
    try:
        labels = label_conformers(
            molecule.atomic_numbers,
            positions,
            config.dft,
            charge=molecule.charge,
            spin=molecule.spin,
            guess=guess,
        )
        record = _record(molecule, index, positions, labels, config)
    except UnsupportedMoleculeError as error:
        failures = (failure("label", str(error)),) if part.start == 0 else ()
        return LabelledSlice(part.number, None, failures)
    problems = tuple(
        failure("label", reason, int(index[row])) for row, reason in _problems(labels, config.dft)
    )
    return LabelledSlice(part.number, record, problems)


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
    record = MoleculeRecord(
        line=molecule.line,
        source_id=molecule.source_id,
        smile=molecule.smiles,
        charge=molecule.charge,
        spin=molecule.spin,
        z=molecule.atomic_numbers.astype(np.uint8),
        nao=labels.orbital_energies.shape[1],
        conformers={name: np.ascontiguousarray(values[kept]) for name, values in columns.items()},
    )
    check_record(record, optional_labels)
    return record


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
