"""Labels that only some runs store, and stores of the layout before there were any."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from qmgen.dataset import (
    CONFORMER,
    OPTIONAL,
    Chunking,
    check_record,
    export_qm1b,
    open_dataset,
    pack_symmetric,
    store_digest,
    unpack_symmetric,
    verify_store,
)
from qmgen.dataset.export import qm1b_schema
from qmgen.dataset.provenance import file_sha256
from qmgen.dataset.summary import label_ranges
from qmgen.errors import InputError, StoreError

ALL = tuple(OPTIONAL)
SOME = [("density_matrix",), ("forces", "dispersion_energy", "dispersion_forces"), ALL]


@pytest.mark.parametrize("names", SOME, ids="-".join)
def test_round_trip(make_records, write, names):
    records = make_records(8, optional_labels=names)
    # The order of the names is of no consequence.
    dataset = open_dataset(write(records, optional_labels=names[::-1]))
    assert set(dataset.columns) & set(OPTIONAL) == set(names)
    assert dataset.metadata.optional_labels == names
    rows = iter(range(len(dataset)))
    for number, record in enumerate(records):
        molecule = dataset.molecule(number)
        for i in range(record.num_conformers):
            row = dataset[next(rows)]
            for name in names:
                np.testing.assert_array_equal(row[name], record.conformers[name][i])
        for name in names:
            np.testing.assert_array_equal(molecule[name], record.conformers[name], strict=True)
    assert verify_store(dataset.path).intact


def test_batches_cut_pairs_of_orbitals(make_records, write):
    records = make_records(30, optional_labels=ALL)
    dataset = open_dataset(write(records, optional_labels=ALL))
    flat = [record.conformers["fock_matrix"] for record in records]
    expected = list(itertools.chain.from_iterable(flat))
    batch = dataset.batch([40, 3, 3, 17], ["fock_matrix", "forces"])
    for i, row in enumerate([40, 3, 3, 17]):
        start, stop = batch.offsets("fock_matrix")[i : i + 2]
        np.testing.assert_array_equal(batch["fock_matrix"][start:stop], expected[row])
    assert batch["forces"].shape == (batch.atom_offset[-1], 3)
    np.testing.assert_array_equal(dataset.column("fock_matrix"), np.concatenate(expected))


def test_arrays_that_nobody_asked_for_are_not_there(make_records, write):
    path = write(make_records(5))
    there = {p.name for p in (path / "conformers").iterdir()} - {"zarr.json"}
    assert there == {*CONFORMER, "molecule", "atom_offset", "orbital_offset"}
    forces = write(
        make_records(5, optional_labels=["forces"]), optional_labels=["forces"], name="f"
    )
    more = {p.name for p in (forces / "conformers").iterdir()} - {"zarr.json"}
    assert more - there == {"forces"}


def test_a_column_that_the_run_did_not_store_is_explained(make_records, write):
    dataset = open_dataset(write(make_records(2)))
    with pytest.raises(InputError, match=r"no column 'forces'.*labels ask for it"):
        dataset.column("forces")
    with pytest.raises(InputError, match="no column 'farces'") as caught:
        dataset.column("farces")
    assert "ask for it" not in str(caught.value)


def test_records_must_have_what_was_asked_for(make_records, write):
    plain, rich = make_records(1)[0], make_records(1, optional_labels=["forces"])[0]
    check_record(rich, ["forces"])
    with pytest.raises(InputError, match=r"missing fields \['forces'\]"):
        check_record(plain, ["forces"])
    with pytest.raises(InputError, match=r"unknown fields \['forces'\]"):
        check_record(rich)
    with pytest.raises(InputError, match=r"no optional labels \['farces'\]; there are forces, "):
        write([plain], optional_labels=["farces"])
    wrong = {**rich.conformers, "forces": rich.conformers["forces"][..., :2]}
    with pytest.raises(InputError, match="forces must be float64 of shape"):
        check_record(replace(rich, conformers=wrong), ["forces"])


@pytest.mark.slow
def test_digest_sees_optional_labels_and_notes(make_records, write):
    records = make_records(4, nconf=2, optional_labels=ALL)
    whole = {"optional_labels": ALL, "chunking": Chunking()}
    digests = {store_digest(write(records, **whole))}
    digests.add(store_digest(write(records, **whole, notes=["so"], name="notes")))
    for name in ALL:
        changed = make_records(4, nconf=2, optional_labels=ALL)
        values = changed[2].conformers[name]
        values[1] = np.nextafter(values[1], np.inf)
        digests.add(store_digest(write(changed, **whole, name=name)))
    assert len(digests) == 2 + len(ALL)


def test_attributes_tell_convention_and_unit(make_records, write):
    path = write(make_records(3, optional_labels=ALL), optional_labels=ALL)
    words = {
        "forces": ("Hartree/Bohr", "minus the gradient of energy"),
        "quadrupole": ("e*Bohr^2", "traceless", "centre of nuclear charge", "Buckingham"),
        "dispersion_energy": ("Hartree", "not part of energy"),
        "dispersion_forces": ("Hartree/Bohr", "not part of forces"),
        "density_matrix": ("lower triangle", "libcint", "m = -l to l", "pair_offset"),
        "fock_matrix": ("Hartree", "lower triangle", "libcint", "pair_offset"),
    }
    for name, fragments in words.items():
        text = (path / "conformers" / name / "zarr.json").read_text()
        for fragment in fragments:
            assert fragment in text


def test_ranges_show_what_there_is(make_records, write):
    names = ["forces", "dispersion_energy"]
    dataset = open_dataset(write(make_records(9, optional_labels=names), optional_labels=names))
    ranges = {r.label: r for r in label_ranges(dataset)}
    assert {"quadrupole", *names} <= set(ranges)
    assert not {"dispersion_forces", "density_matrix"} & set(ranges)
    rows = dataset.indices()
    assert ranges["forces"].maximum == dataset.column("forces", rows).max()
    assert ranges["forces"].unit == "Hartree/Bohr"


def test_export_has_the_published_columns_only(make_records, write, tmp_path):
    import pyarrow.parquet as pq

    dataset = open_dataset(write(make_records(5, optional_labels=ALL), optional_labels=ALL))
    export_qm1b(dataset, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column_names == qm1b_schema().names


@pytest.mark.parametrize("nao", [0, 1, 2, 7])
def test_packed_matrices(nao):
    rng = np.random.default_rng(nao)
    matrices = rng.normal(size=(3, nao, nao))
    matrices += matrices.swapaxes(1, 2)
    packed = pack_symmetric(matrices)
    assert packed.shape == (3, nao * (nao + 1) // 2)
    for i, j in itertools.product(range(nao), repeat=2):
        if j <= i:
            np.testing.assert_array_equal(packed[:, i * (i + 1) // 2 + j], matrices[:, i, j])
    np.testing.assert_array_equal(unpack_symmetric(packed), matrices)
    np.testing.assert_array_equal(unpack_symmetric(packed[0]), matrices[0])


@pytest.fixture
def version_1(own_store):
    """A store as the first version wrote it: no quadrupole, no list of labels, no notes."""
    shutil.rmtree(own_store / "conformers" / "quadrupole")
    root = own_store / "zarr.json"
    content = json.loads(root.read_text())
    content["attributes"]["schema_version"] = 1
    for name in ("optional_labels", "notes"):
        del content["attributes"][name]
    root.write_text(json.dumps(content))
    manifest = own_store / "manifest" / "zarr.json"
    listed = json.loads(manifest.read_text())
    files = listed["attributes"]["files"]
    for name in [name for name in files if name.startswith("conformers/quadrupole/")]:
        del files[name]
    files["zarr.json"] = {"bytes": root.stat().st_size, "sha256": file_sha256(root)}
    manifest.write_text(json.dumps(listed))
    return own_store


def test_stores_of_version_1_open(version_1, make_records, tmp_path):
    records = make_records(40)
    dataset = open_dataset(version_1)
    assert verify_store(dataset.path).intact
    assert dataset.metadata.schema_version == 1
    assert dataset.metadata.optional_labels == dataset.metadata.notes == ()
    assert set(CONFORMER) - set(dataset.columns) == {"quadrupole"}
    with pytest.raises(InputError, match="no column 'quadrupole'"):
        dataset.column("quadrupole")
    for number, record in enumerate(records):
        molecule = dataset.molecule(number)
        for name in set(CONFORMER) - {"quadrupole"}:
            np.testing.assert_array_equal(molecule[name], record.conformers[name], strict=True)
    assert sum(1 for _ in dataset) == len(dataset)
    assert "quadrupole" not in {r.label for r in label_ranges(dataset)}
    assert export_qm1b(dataset, tmp_path / "out.parquet").written > 0
    assert len(store_digest(version_1)) == 64


def test_unknown_labels_in_the_metadata_are_damage(own_store):
    root = own_store / "zarr.json"
    content = json.loads(root.read_text())
    content["attributes"]["optional_labels"] = ["farces"]
    root.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="unknown labels"):
        open_dataset(own_store)
