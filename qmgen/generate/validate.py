"""Checks stored labels against PySCF itself."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from pyscf import gto, lib, scf

from qmgen.dataset import Dataset, pack_symmetric
from qmgen.dataset.validation import LabelError, ValidationReport
from qmgen.dft import DFTConfig
from qmgen.dft.dispersion import DispersionModel, parameter_name
from qmgen.dft.interop import pyscf_calculation
from qmgen.errors import InputError, MissingExtraError, StoreError
from qmgen.generate.config import LabelConfig
from qmgen.units import (
    ANGSTROM_PER_BOHR,
    DEBYE_PER_ATOMIC_UNIT,
    EV_PER_HARTREE,
    MILLIHARTREE_PER_HARTREE,
)


@dataclass(frozen=True)
class Tolerances:
    """Largest accepted differences from PySCF, in atomic units unless the name says otherwise.

    ``mulliken_charge`` is that of density matrices and ``orbital_energy`` that of Fock matrices,
    too, ``mulliken_charge`` also of what spins have; ``dispersion`` is for both energy and forces.
    """

    energy: float
    orbital_energy: float
    dipole_debye: float
    mulliken_charge: float
    force: float
    quadrupole: float
    dispersion: float


# Labels converged in float64 agree with PySCF's to these bounds: the project's accuracy.
TOLERANCES_FLOAT64 = Tolerances(1e-6, 1e-5, 1e-4, 1e-4, 1e-5, 1e-3, 1e-8)
# Cycles in float32 leave the density with a residual of 1e-3, dispersion has nothing to do with it.
TOLERANCES_FLOAT32 = Tolerances(1e-3, 1e-3, 1e-2, 1e-2, 1e-2, 5e-2, 1e-8)


def default_tolerances(config: DFTConfig) -> Tolerances:
    """Tolerances that labels of a configuration must meet."""
    if config.criterion == "energy_std" or config.precision == "float32":
        # A fixed number of cycles may stop a conformer short of full convergence, too.
        return TOLERANCES_FLOAT32
    return TOLERANCES_FLOAT64


def validate(
    dataset: Dataset,
    sample: int,
    *,
    seed: int = 0,
    tolerances: Tolerances | None = None,
    workers: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> ValidationReport:
    """Recompute a random sample of converged conformers with PySCF.

    Parameters
    ----------
    dataset
        Store to check; the level of theory is that of its provenance.
    sample
        Number of conformers; all where there are fewer.
    seed
        Of the choice.
    tolerances
        By default those of `default_tolerances`.
    workers
        Processes of one thread each, when more than one; they are spawned, so a script that asks
        for them needs ``if __name__ == "__main__":``.
    progress
        Called with the number of conformers done.

    Raises
    ------
    InputError
        The store has no converged conformer.
    StoreError
        The store's configuration can't be read by this version of qmgen.
    MissingExtraError
        The store has dispersion labels and PySCF's extension for them is not installed.
    """
    config, labels = stored_config(dataset), stored_labels(dataset)
    rounding = dataset.metadata.precision
    bounds = default_tolerances(config) if tolerances is None else tolerances
    candidates = dataset.indices(converged_only=True)
    if not len(candidates):
        raise InputError(f"{dataset.path} has no converged conformer to validate")
    chosen = np.random.default_rng(seed).choice(
        candidates, size=min(sample, len(candidates)), replace=False
    )
    rows = sorted(int(i) for i in chosen)
    known: list[tuple[int, dict[str, float]]] = []
    compared = _map(partial(_difference, dataset, config, labels), rows, workers)
    for done, (row, difference) in enumerate(zip(rows, compared, strict=True), start=1):
        if difference is not None:
            known.append((row, difference))
        progress(done)
    return ValidationReport(
        errors=tuple(_summarise(known, bounds, rounding)),
        conformers=len(rows),
        not_converged=len(rows) - len(known),
    )


def stored_config(dataset: Dataset) -> DFTConfig:
    """Level of theory of a dataset; raises `StoreError` if it can't be read."""
    imported = dataset.metadata.provenance.imported
    if imported is not None:
        raise StoreError(
            f"{dataset.path}: its labels come from {imported.dataset}, not from qmgen, so there is "
            "no calculation to repeat; validate a dataset that qmgen generate made"
        )
    config = dataset.metadata.provenance.config
    if config.get("method", "dft") != "dft":
        raise StoreError(
            f"{dataset.path}: its labels are those of {config['method']}, which PySCF does not "
            "have; validate a dataset of method dft"
        )
    stored: Any = config.get("dft")
    try:
        return DFTConfig.model_validate(stored)
    except ValueError as error:
        raise StoreError(
            f"{dataset.path}: its level of theory can't be read ({error}); use the version of "
            "qmgen that made it"
        ) from error


def stored_labels(dataset: Dataset) -> LabelConfig:
    """Optional labels of a dataset; raises `StoreError` if they can't be read."""
    # The first version of the store had none.
    stored: Any = dataset.metadata.provenance.config.get("labels", {})
    try:
        return LabelConfig.model_validate(stored)
    except ValueError as error:
        raise StoreError(
            f"{dataset.path}: its choice of labels can't be read ({error}); use the version of "
            "qmgen that made it"
        ) from error


def _map(
    compare: Callable[[int], dict[str, float] | None], rows: list[int], workers: int
) -> Iterator[dict[str, float] | None]:
    """Results in the order of the rows."""
    if workers == 1:
        yield from map(compare, rows)
        return
    # Not forked, as libcint's and XLA's threads don't survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, lib.num_threads, (1,)) as pool:
        yield from pool.map(compare, rows)


def _difference(
    dataset: Dataset, config: DFTConfig, labels: LabelConfig, number: int
) -> dict[str, float] | None:
    """Largest absolute difference of each label of a row, in atomic units; None without PySCF's."""
    row = dataset[number]
    z = row["z"].astype(np.int32)
    calculation = pyscf_calculation(z, row["pos"], config, int(row["charge"]), int(row["spin"]))
    # Orbital energies and dipoles are of first order in what convergence leaves, so the reference
    # is converged further than the labels.
    calculation.conv_tol_grad = 1e-6
    energy = calculation.kernel()
    if not calculation.converged:
        return None
    orbital_energies: Float[np.ndarray, "*spins nao"] = np.asarray(calculation.mo_energy)
    occupied = np.asarray(calculation.mo_occ) > 0
    homo = orbital_energies[occupied].max()
    _, charges = calculation.mulliken_pop(verbose=0)
    result = {
        "energy": abs(row["energy"] - energy),
        "homo": abs(row["homo"] - homo),
        "orbital_energies": np.abs(
            row["orbital_energies"] - np.atleast_2d(orbital_energies)[0]
        ).max(),
        "dipole": np.abs(
            row["dipole"] * DEBYE_PER_ATOMIC_UNIT - calculation.dip_moment(verbose=0)
        ).max(),
        "mulliken_charges": np.abs(row["mulliken_charges"] - charges).max(),
        "nuclear_repulsion": abs(row["nuclear_repulsion"] - calculation.energy_nuc()),
    }
    if not occupied.all():
        lumo = orbital_energies[~occupied].min()
        result["lumo"] = abs(row["lumo"] - lumo)
        result["gap"] = abs(row["gap"] - (lumo - homo))
    for name, reference in _optional_references(row, calculation, config, labels):
        result[name] = np.abs(row[name] - reference).max()
    return {name: float(value) for name, value in result.items()}


def _optional_references(
    row: dict[str, Any], calculation: scf.hf.SCF, config: DFTConfig, labels: LabelConfig
) -> Iterator[tuple[str, Any]]:
    """PySCF's values of the labels that not every dataset has."""
    mol = calculation.mol
    if "quadrupole" in row:
        yield "quadrupole", _quadrupole(calculation)
    if "forces" in row:
        gradient = calculation.nuc_grad_method()
        if labels.forces_grid_response:
            gradient.grid_response = True
        yield "forces", -gradient.kernel()
    if labels.dispersion is not None and "dispersion_energy" in row:
        energy, dispersion_gradient = _dispersion(mol, labels.dispersion, config.functional)
        yield "dispersion_energy", energy
        if "dispersion_forces" in row:
            yield "dispersion_forces", -dispersion_gradient
    # Where Cartesian and pure shells are mixed, PySCF's orbitals are others.
    comparable = mol.nao == len(row["orbital_energies"])
    if "density_matrix" in row and comparable:
        yield "density_matrix", pack_symmetric(_total_density(calculation))
    if "fock_matrix" in row and comparable:
        focks = np.asarray(calculation.get_fock()).reshape(-1, mol.nao, mol.nao)
        yield "fock_matrix", pack_symmetric(focks[0])
        if row["spin"]:
            yield "fock_matrix_beta", pack_symmetric(focks[1])
    if row["spin"]:
        yield "orbital_energies_beta", calculation.mo_energy[1]
        yield "spin_square", calculation.spin_square()[0]
        a, b = calculation.make_rdm1()
        yield "mulliken_spins", _mulliken_spins(mol, a - b)
        if "spin_density_matrix" in row and comparable:
            yield "spin_density_matrix", pack_symmetric(a - b)


def _total_density(calculation: scf.hf.SCF) -> Float[np.ndarray, "nao nao"]:
    density = np.asarray(calculation.make_rdm1())
    return density.sum(axis=0) if density.ndim == 3 else density


def _mulliken_spins(
    mol: gto.Mole, spin_density: Float[np.ndarray, "nao nao"]
) -> Float[np.ndarray, " nat"]:
    populations = np.einsum("ij,ji->i", spin_density, mol.intor("int1e_ovlp"))
    return np.array([populations[start:stop].sum() for *_, start, stop in mol.aoslice_by_atom()])


def _quadrupole(calculation: scf.hf.SCF) -> Float[np.ndarray, "3 3"]:
    """PySCF's `quad_moment`, which older releases lack, about the centre of nuclear charge."""
    mol = calculation.mol
    z, positions = mol.atom_charges(), mol.atom_coords()
    centre = z @ positions / z.sum()
    with mol.with_common_orig(centre):
        integrals = mol.intor("int1e_rr").reshape(3, 3, mol.nao, mol.nao)
    moment = -np.einsum("xyij,ji->xy", integrals, _total_density(calculation))
    moment += np.einsum("a,ax,ay->xy", z, positions - centre, positions - centre)
    return 1.5 * moment - 0.5 * np.trace(moment) * np.eye(3)


def _dispersion(
    mol: gto.Mole, model: DispersionModel, functional: str
) -> tuple[float, Float[np.ndarray, "nat 3"]]:
    """Energy and gradient by PySCF's own build of the dispersion libraries."""
    try:
        from pyscf.dispersion import dftd3, dftd4
    except ImportError as error:
        raise MissingExtraError(
            "checking dispersion labels needs the package pyscf-dispersion: "
            "pip install 'qmgen[dispersion]'"
        ) from error
    kind = dftd3.DFTD3Dispersion if model == "d3bj" else dftd4.DFTD4Dispersion
    result = kind(mol, xc=parameter_name(functional)).get_dispersion(grad=True)
    return float(result["energy"]), result["gradient"]


def _summarise(
    differences: list[tuple[int, dict[str, float]]],
    bounds: Tolerances,
    rounding: Mapping[str, float],
) -> list[LabelError]:
    """Errors of each label; one that was rounded is allowed that much more."""
    mha = MILLIHARTREE_PER_HARTREE
    table = [
        ("energy", "mHa", mha, bounds.energy),
        ("energy", "meV", 1e3 * EV_PER_HARTREE, bounds.energy),
        ("nuclear_repulsion", "mHa", mha, bounds.energy),
        *(
            (name, unit, factor, bounds.orbital_energy * (2 if name == "gap" else 1))
            for name in ("homo", "lumo", "gap", "orbital_energies", "orbital_energies_beta")
            for unit, factor in (("mHa", mha), ("meV", 1e3 * EV_PER_HARTREE))
        ),
        ("dipole", "Debye", 1.0, bounds.dipole_debye),
        ("mulliken_charges", "e", 1.0, bounds.mulliken_charge),
        ("mulliken_spins", "1", 1.0, bounds.mulliken_charge),
        ("spin_square", "1", 1.0, bounds.mulliken_charge),
        ("quadrupole", "e Bohr^2", 1.0, bounds.quadrupole),
        ("forces", "mHa/Bohr", mha, bounds.force),
        ("forces", "meV/Angstrom", 1e3 * EV_PER_HARTREE / ANGSTROM_PER_BOHR, bounds.force),
        ("dispersion_energy", "mHa", mha, bounds.dispersion),
        ("dispersion_forces", "mHa/Bohr", mha, bounds.dispersion),
        ("density_matrix", "1", 1.0, bounds.mulliken_charge),
        ("spin_density_matrix", "1", 1.0, bounds.mulliken_charge),
        ("fock_matrix", "mHa", mha, bounds.orbital_energy),
        ("fock_matrix_beta", "mHa", mha, bounds.orbital_energy),
    ]
    errors = []
    units = {"dipole": DEBYE_PER_ATOMIC_UNIT}
    for name, unit, factor, exact in table:
        bound = exact + rounding.get(name, 0.0) * units.get(name, 1.0)
        # Molecules without virtual orbital have no LUMO to compare, and many a store no forces.
        known = [(d[name], row) for row, d in differences if name in d]
        if known:
            values = np.array([value for value, _ in known]) * factor
            worst = int(np.argmax(np.where(np.isnan(values), np.inf, values)))
            errors.append(
                LabelError(
                    name,
                    unit,
                    float(values.mean()),
                    float(values.max()),
                    bound * factor,
                    known[worst][1],
                )
            )
    return errors
