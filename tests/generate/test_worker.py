"""One batch: labels as the engine gives them, and trouble that stays with its molecule."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyscf import gto
from pyscf.dispersion import dftd4
from scipy.constants import physical_constants

from qmgen.dataset import CONFORMER, check_record, unpack_symmetric
from qmgen.dft import label_conformers
from qmgen.dft.interop import pyscf_calculation
from qmgen.generate import RunConfig, load_config
from qmgen.generate.config import LabelConfig
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.worker import LabelledSlice, label_batch
from qmgen.molecules import Molecule, embed_conformers, molecule_from_smiles
from tests.generate.runs import HARTREE_FOCK

# Independent of qmgen.units: 2022 (or later) CODATA as SciPy has it.
BOHR_IN_ANGSTROM = physical_constants["Bohr radius"][0] * 1e10


def config_of(**dft: object) -> RunConfig:
    overrides = {
        "": {"seed": 5},
        "conformers": {"per_molecule": 4},
        "dft": {**HARTREE_FOCK, **dft},
    }
    return load_config(None, overrides)


def label(*molecules: Molecule, config: RunConfig) -> list[LabelledSlice]:
    slices = (Slice(10 + i, m.to_json(), 0, 4) for i, m in enumerate(molecules))
    return label_batch(Batch(0, tuple(slices)), config, 1)


def dispersion_by_pyscf(molecule: Molecule, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """D4 energy and forces for Hartree-Fock by PySCF's own build of the library."""
    atoms = list(zip(molecule.atomic_numbers.tolist(), positions.tolist(), strict=True))
    mol = gto.M(atom=atoms, unit="Bohr", basis="sto-3g", charge=molecule.charge, verbose=0)
    result = dftd4.DFTD4Dispersion(mol, xc="hf").get_dispersion(grad=True)
    return result["energy"], -result["gradient"]


def hydrogen(distance_angstrom: float) -> Molecule:
    return Molecule(
        smiles="[H][H]",
        atomic_numbers=np.array([1, 1]),
        charge=0,
        spin=0,
        line=4,
        source_id="made by hand",
        positions_angstrom=np.array([[0.0, 0, 0], [0, 0, distance_angstrom]]),
    )


@pytest.mark.parametrize("smiles", ["O", "N", "[OH3+]", "[NH2-]"])
def test_labels_are_those_of_the_engine(smiles: str) -> None:
    # Mixed precision rounds what the tenth digit of positions changes.
    config = config_of()
    dft = config.dft.model_copy(update={"precision": "float64"})
    config = config.model_copy(update={"dft": dft})
    molecule = replace(molecule_from_smiles(smiles), line=3, source_id="sample")
    positions_angstrom = embed_conformers(molecule, config.conformers, config.seed)
    positions = positions_angstrom / BOHR_IN_ANGSTROM
    expected = label_conformers(
        molecule.atomic_numbers, positions, config.dft, charge=molecule.charge
    )
    (result,) = label(molecule, config=config)
    assert result.number == 10
    assert result.failures == ()
    record = result.record
    assert record is not None
    check_record(record)
    assert (record.line, record.source_id, record.smile) == (3, "sample", molecule.smiles)
    assert (record.charge, record.spin, record.nao) == (
        molecule.charge,
        0,
        expected.orbital_energies.shape[1],
    )
    assert np.array_equal(record.z, molecule.atomic_numbers)
    got = record.conformers
    assert np.array_equal(got["index"], np.arange(4))
    # CODATA editions differ in the tenth digit.
    assert got["pos"] == pytest.approx(positions, rel=1e-9)
    assert set(got) == set(CONFORMER)
    names = set(got) - {"index", "pos", "std", "energy_change"}
    for name in names:
        # Positions that differ in their tenth digit move labels by less.
        assert got[name] == pytest.approx(getattr(expected, name), abs=1e-8)
    assert got["converged"].all()


def test_dispersion_is_a_label_of_its_own() -> None:
    molecule = molecule_from_smiles("[OH3+]")
    plain = config_of()
    config = plain.model_copy(update={"labels": LabelConfig(dispersion="d4")})
    (without,), (with_it,) = (label(molecule, config=c) for c in (plain, config))
    assert without.record is not None
    assert with_it.record is not None
    got = with_it.record.conformers
    assert set(got) - set(without.record.conformers) == {"dispersion_energy"}
    for i, positions in enumerate(got["pos"]):
        energy, _ = dispersion_by_pyscf(molecule, positions)
        # Rounding, and what releases of the library differ in.
        assert got["dispersion_energy"][i] == pytest.approx(energy, abs=1e-9)
        assert got["energy"][i] == without.record.conformers["energy"][i]


def test_density_matrices_are_packed() -> None:
    config = config_of().model_copy(update={"labels": LabelConfig(density_matrix=True)})
    molecule = molecule_from_smiles("N")
    (result,) = label(molecule, config=config)
    assert result.record is not None
    got = result.record.conformers
    expected = label_conformers(molecule.atomic_numbers, got["pos"], config.dft)
    density = unpack_symmetric(got["density_matrix"])
    # The engine's densities are symmetric to rounding.
    np.testing.assert_allclose(density, expected.density, atol=1e-12)


def test_labels_that_are_asked_for_are_kept() -> None:
    """Forces, dispersion and Fock matrices of a molecule against PySCF's."""
    molecule = molecule_from_smiles("N")
    asked = LabelConfig(forces=True, fock_matrix=True, dispersion="d4")
    config = config_of().model_copy(update={"labels": asked})
    (result,) = label(molecule, config=config)
    assert result.record is not None
    got = result.record.conformers
    assert set(got) - set(CONFORMER) == set(asked.optional_labels)
    fock = unpack_symmetric(got["fock_matrix"])
    for i, positions in enumerate(got["pos"]):
        calculation = pyscf_calculation(molecule.atomic_numbers, positions, config.dft)
        # Tighter than what is compared.
        calculation.conv_tol, calculation.conv_tol_grad = 1e-11, 1e-6
        calculation.kernel()
        # The accuracy that the project promises, Hartree / Bohr and Hartree.
        gradient = calculation.nuc_grad_method().kernel()
        assert np.abs(got["forces"][i] + gradient).max() < 1e-5
        assert np.abs(fock[i] - calculation.get_fock()).max() < 1e-5
        _, expected = dispersion_by_pyscf(molecule, positions)
        np.testing.assert_allclose(got["dispersion_forces"][i], expected, atol=1e-9)


def test_what_did_not_converge_has_no_dispersion() -> None:
    """Atoms on top of each other, which the library refuses."""
    config = config_of().model_copy(update={"labels": LabelConfig(dispersion="d3bj")})
    broken, fine = label(hydrogen(1e-5), hydrogen(0.74), config=config)
    for result, known in ((broken, False), (fine, True)):
        assert result.record is not None
        got = result.record.conformers
        assert np.isfinite(got["dispersion_energy"]).tolist() == [known]


def test_slices_of_a_molecule_make_up_the_whole() -> None:
    config = config_of()
    text = molecule_from_smiles("N").to_json()
    whole = label_batch(Batch(0, (Slice(0, text, 0, 4),)), config, 1)[0].record
    cuts = (Slice(0, text, 0, 1), Slice(0, text, 1, 3), Slice(0, text, 3, 4))
    pieces = [piece.record for piece in label_batch(Batch(0, cuts), config, 1)]
    assert whole is not None
    # Conformers start from those of their slice: labels agree as far as they are converged, to an
    # energy change of 1e-10 Ha and its root in the orbital gradient.
    tolerances = {"index": 0, "pos": 0, "nuclear_repulsion": 0, "converged": 0, "energy": 1e-9}
    tolerances |= dict.fromkeys(("homo", "lumo", "orbital_energies"), 1e-6)
    tolerances |= dict.fromkeys(("dipole", "quadrupole", "mulliken_charges"), 1e-5)
    for name, tolerance in tolerances.items():
        joined = np.concatenate([p.conformers[name] for p in pieces if p is not None])
        np.testing.assert_allclose(joined, whole.conformers[name], rtol=0, atol=tolerance)


def test_a_molecule_that_cannot_be_embedded_is_told_once_and_the_others_go_on() -> None:
    config = config_of()
    water, cyclopropyne = molecule_from_smiles("O"), molecule_from_smiles("C1#CC1")
    slices = (
        Slice(0, water.to_json(), 0, 1),
        Slice(1, cyclopropyne.to_json(), 0, 2),
        Slice(1, cyclopropyne.to_json(), 2, 4),
        Slice(2, water.to_json(), 1, 2),
    )
    first, failed, again, last = label_batch(Batch(0, slices), config, 1)
    assert failed.record is None
    assert again == LabelledSlice(1, None, ())
    (failure,) = failed.failures
    assert (failure.stage, failure.conformer, failure.smile) == ("embed", -1, cyclopropyne.smiles)
    assert "no conformer in" in failure.reason
    for result in (first, last):
        assert result.record is not None
        assert result.record.conformers["converged"].tolist() == [True]


def test_conformers_that_are_fewer_than_planned(tmp_path: Path) -> None:
    """Pruning leaves one conformer of water; later slices are empty, and that is no failure."""
    config = load_config(
        None,
        {"conformers": {"per_molecule": 4, "rmsd_prune_angstrom": 0.5}, "dft": HARTREE_FOCK},
    )
    text = molecule_from_smiles("O").to_json()
    results = label_batch(Batch(0, (Slice(0, text, 0, 2), Slice(0, text, 2, 4))), config, 1)
    assert results[0].record is not None
    assert results[0].record.num_conformers == 1
    assert results[1] == LabelledSlice(0, None, ())


def test_what_the_engine_refuses_is_a_failure() -> None:
    impossible = replace(molecule_from_smiles("O"), atomic_numbers=np.array([8, 1, 1]), charge=1)
    water = molecule_from_smiles("O")
    failed, fine = label(impossible, water, config=config_of())
    assert failed.record is None
    (failure,) = failed.failures
    assert failure.stage == "label"
    assert "9 electrons, 0 of them unpaired" in failure.reason
    assert fine.record is not None
    assert fine.failures == ()


def test_unconverged_conformers_are_kept_and_told() -> None:
    config = config_of(max_cycle=5, conv_tol=1e-14, level_shift=0.0, damping=0.0)
    (result,) = label(molecule_from_smiles("N"), config=config)
    assert result.record is not None
    check_record(result.record)
    got = result.record.conformers
    assert got["converged"].tolist() == [False] * 4
    assert got["iterations"].tolist() == [5] * 4
    assert np.isfinite(got["energy"]).all()
    assert [f.conformer for f in result.failures] == [0, 1, 2, 3]
    for failure in result.failures:
        assert failure.stage == "label"
        assert "not converged after 5 cycles and 1 attempts" in failure.reason
        assert "criterion energy_change" in failure.reason


# Overlap of two equal s functions is about 1 - a R^2 / 2, so the smallest eigenvalue is below the
# engine's 1e-9 at 1e-5 Angstrom.
@pytest.mark.parametrize("distance_angstrom", [1e-5, 0.0])
def test_coincident_atoms_fail_alone(distance_angstrom: float) -> None:
    broken, fine = label(hydrogen(distance_angstrom), hydrogen(0.74), config=config_of())
    (failure,) = broken.failures
    assert (failure.stage, failure.conformer, failure.line) == ("label", 0, 4)
    assert "linearly dependent" in failure.reason
    assert "coincident atoms" in failure.reason
    assert broken.record is not None
    check_record(broken.record)
    assert not broken.record.conformers["converged"].any()
    # Where nuclei coincide there is no energy, so nothing but the failure is left.
    assert broken.record.num_conformers == (0 if distance_angstrom == 0 else 1)
    assert fine.failures == ()
    assert fine.record is not None
    assert fine.record.conformers["converged"].all()
    # Szabo and Ostlund, section 3.8.2: -1.1167 Hartree at 1.4 Bohr; 0.74 Angstrom is 1.3984 Bohr,
    # which moves it by less than 1e-4.
    assert fine.record.conformers["energy"] == pytest.approx([-1.1167], abs=2e-4)


def test_atoms_a_milliangstrom_apart_never_pass_for_converged_unnoticed() -> None:
    """The basis is near dependence but above the limit; whichever way it ends is told."""
    (result,) = label(hydrogen(1e-3), config=config_of())
    assert result.record is not None
    check_record(result.record)
    got = result.record.conformers
    told = [f.conformer for f in result.failures]
    assert told == got["index"][~got["converged"]].tolist()
    # 1 / R in Bohr
    assert got["nuclear_repulsion"] == pytest.approx([BOHR_IN_ANGSTROM / 1e-3], rel=1e-6)
