"""Validation against PySCF of the labels that not every dataset has."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyscf.dispersion import dftd3

from qmgen.dataset import (
    Dataset,
    MoleculeRecord,
    collect_provenance,
    open_dataset,
    pack_symmetric,
    write_store,
)
from qmgen.dft.interop import pyscf_calculation
from qmgen.errors import ConfigError, MissingExtraError, StoreError
from qmgen.generate import RunConfig, generate, load_config, validate
from qmgen.generate.config import LabelConfig
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.worker import label_batch
from qmgen.molecules import molecule_from_smiles
from tests.generate.runs import HARTREE_FOCK, write_smiles

PLAIN = load_config(
    None,
    {
        "conformers": {"per_molecule": 2},
        "dft": {"functional": "b3lyp5", "basis": "sto-3g", "grid_level": 0},
    },
)
# Without force field, the hydrogens of ammonia feel forces far above the tolerance.
ASKED = LabelConfig(forces=True, dispersion="d3bj", density_matrix=True, fock_matrix=True)


@pytest.fixture(scope="module")
def record() -> MoleculeRecord:
    """Labels of ammonia by the engine, and those that PySCF adds."""
    text = molecule_from_smiles("N").to_json()
    made = label_batch(Batch(0, (Slice(0, text, 0, 2),)), PLAIN, 1)[0].record
    assert made is not None
    added: dict[str, list[object]] = {name: [] for name in ASKED.optional_labels}
    for positions in made.conformers["pos"]:
        calculation = pyscf_calculation(made.z.astype(np.int32), positions, PLAIN.dft)
        calculation.conv_tol_grad = 1e-7
        calculation.kernel()
        found = dftd3.DFTD3Dispersion(calculation.mol, xc="b3lyp").get_dispersion(grad=True)
        added["forces"].append(-calculation.nuc_grad_method().kernel())
        added["dispersion_energy"].append(found["energy"])
        added["dispersion_forces"].append(-found["gradient"])
        added["density_matrix"].append(pack_symmetric(calculation.make_rdm1()))
        added["fock_matrix"].append(pack_symmetric(calculation.get_fock()))
    conformers = made.conformers | {name: np.array(values) for name, values in added.items()}
    return replace(made, conformers=conformers)


def store(
    record: MoleculeRecord,
    folder: Path,
    labels: LabelConfig,
    precision: dict[str, float] | None = None,
    **changes: float,
) -> Dataset:
    """Write a store with the first value of some labels shifted."""
    config = PLAIN.model_copy(update={"labels": labels})
    conformers = {name: values.copy() for name, values in record.conformers.items()}
    for name, shift in changes.items():
        conformers[name].flat[0] += shift
    source = folder / "molecules.smi"
    source.write_text("N\n", encoding="utf-8")
    write_store(
        folder / "store",
        [replace(record, conformers=conformers)],
        [],
        collect_provenance(config=config.science(), seed=0, source=source, command="test"),
        split_seed=0,
        optional_labels=ASKED.optional_labels,
        precision=precision or {},
        notes=config.notes(),
    )
    return open_dataset(folder / "store")


def failed(dataset: Dataset) -> set[str]:
    report = validate(dataset, 2)
    assert {"quadrupole", *ASKED.optional_labels} <= {e.label for e in report.errors}
    assert report.passed == all(e.passed for e in report.errors)
    return {e.label for e in report.errors if not e.passed}


def test_good_labels_pass(record: MoleculeRecord, tmp_path: Path) -> None:
    dataset = store(record, tmp_path, ASKED)
    assert failed(dataset) == set()
    (note,) = dataset.metadata.notes
    assert "grid level 0" in note


def test_rounded_labels_are_allowed_their_bound(record: MoleculeRecord, tmp_path: Path) -> None:
    dataset = store(record, tmp_path, ASKED, precision={"dipole": 0.5, "dispersion_energy": 1e-4})
    assert (dataset.column("dipole") % 0.5 == 0).all()
    assert failed(dataset) == set()


# Several times each tolerance.
@pytest.mark.parametrize(
    "changes",
    [
        {"forces": 5e-5, "density_matrix": 1e-3},
        {"quadrupole": 5e-3, "fock_matrix": 1e-4},
        {"dispersion_energy": 1e-6, "dispersion_forces": 1e-6},
    ],
    ids="-".join,
)
def test_altered_labels_fail(
    record: MoleculeRecord, tmp_path: Path, changes: dict[str, float]
) -> None:
    assert failed(store(record, tmp_path, ASKED, **changes)) == set(changes)


def test_forces_are_compared_with_the_grid_response_of_the_run(
    record: MoleculeRecord, tmp_path: Path
) -> None:
    """On the coarsest grid it is far above the tolerance."""
    other = ASKED.model_copy(update={"forces_grid_response": True})
    assert failed(store(record, tmp_path, other)) == {"forces"}


def test_missing_extension_says_what_to_install(
    record: MoleculeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyscf.dispersion", None)
    dataset = store(record, tmp_path, ASKED)
    with pytest.raises(MissingExtraError, match=r"pip install 'qmgen\[dispersion\]'"):
        validate(dataset, 1)


def test_unreadable_choice_of_labels(record: MoleculeRecord, tmp_path: Path) -> None:
    labels = ASKED.model_copy(update={"dispersion": "d9"})
    with pytest.raises(StoreError, match="use the version of qmgen that made it"):
        validate(store(record, tmp_path, labels), 1)


def test_a_run_stores_what_it_was_asked_for(scheduler: str, tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water", "[OH-]": "hydroxide"})
    config = load_config(
        None,
        {
            "conformers": {"per_molecule": 3},
            "dft": HARTREE_FOCK,
            "labels": {"dispersion": "d4", "density_matrix": True},
            "cluster": {"scheduler": scheduler},
        },
    )
    metadata = generate(source, tmp_path / "store", config).metadata
    assert metadata.optional_labels == ("dispersion_energy", "density_matrix")
    assert metadata.provenance.versions["dftd4"][0].isdigit()
    assert "dftd3" not in metadata.provenance.versions
    report = validate(open_dataset(tmp_path / "store"), 6)
    assert report.passed, report.errors
    assert {"quadrupole", *metadata.optional_labels} <= {e.label for e in report.errors}


def test_runs_with_open_shells_store_both_spins(scheduler: str, tmp_path: Path) -> None:
    molecules = {"O": "water", "[CH3]": "methyl", "[NH4+]": "ammonium", "[O-]C=O": "formate"}
    config = load_config(
        None,
        {
            "conformers": {"per_molecule": 2},
            "dft": HARTREE_FOCK,
            "labels": {"forces": True, "density_matrix": True, "fock_matrix": True},
            "cluster": {"scheduler": scheduler},
        },
    )
    source = write_smiles(tmp_path / "molecules.smi", molecules)
    metadata = generate(source, tmp_path / "store", config).metadata
    of_spins = (
        "orbital_energies_beta",
        "spin_square",
        "mulliken_spins",
        "spin_density_matrix",
        "fock_matrix_beta",
    )
    asked = ("forces", "density_matrix", "fock_matrix")
    assert metadata.optional_labels == (*asked, *of_spins)
    assert metadata.counts.failures == 0
    dataset = open_dataset(tmp_path / "store")
    report = validate(dataset, 8)
    assert report.passed, report.errors
    assert report.not_converged == 0
    assert set(metadata.optional_labels) <= {e.label for e in report.errors}
    water, methyl = dataset.molecule(0), dataset.molecule(1)
    assert (water["spin"], methyl["spin"]) == (0, 1)
    # Whatever the spins of a closed shell have is alike or nothing.
    np.testing.assert_array_equal(water["orbital_energies_beta"], water["orbital_energies"])
    np.testing.assert_array_equal(water["fock_matrix_beta"], water["fock_matrix"])
    for name in ("spin_square", "mulliken_spins", "spin_density_matrix"):
        assert not water[name].any()
        assert methyl[name].any()
    np.testing.assert_allclose(methyl["mulliken_spins"].sum(axis=1), 1, atol=1e-9)


def test_a_run_that_cannot_have_its_dispersion_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water"})
    labels = {"dispersion": "d3bj"}
    monkeypatch.setitem(sys.modules, "dftd3.interface", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qmgen\[dispersion\]'"):
        generate(source, tmp_path / "store", load_config(None, {"labels": labels}))
    monkeypatch.undo()
    config = load_config(None, {"labels": labels, "dft": {"functional": "svwn"}})
    with pytest.raises(ConfigError, match="no parameters for functional svwn"):
        generate(source, tmp_path / "store", config)
    assert not (tmp_path / "store").exists()


def test_stores_without_section_have_no_such_labels() -> None:
    assert LabelConfig().optional_labels == ()
    assert RunConfig().notes() == ()
