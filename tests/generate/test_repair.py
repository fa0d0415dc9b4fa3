"""A damaged dataset of a real run is repaired to the byte by labelling only what was lost."""

import shutil
from pathlib import Path

import pytest

from qmgen.dataset import open_dataset, stored_records, verify_store, write_store
from qmgen.errors import InputError, StoreError, StoreMismatchError
from qmgen.generate import generate, load_config, repair
from tests.generate.conftest import Finished
from tests.generate.runs import HARTREE_FOCK, Command, clear_message, write_smiles


def content(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def test_repair_is_exact(finished: Finished, tmp_path: Path) -> None:
    store = shutil.copytree(finished.path, tmp_path / "store")
    for name in ("conformers/energy/c/0", "molecules/smile/c/0", "molecules/line/c/0", "zarr.json"):
        flip(store / name)
    (store / "conformers/mulliken_charges/c/0").unlink()
    assert not verify_store(store).intact
    done = repair(store, [finished.source], finished.config.cluster)
    assert done.exact
    assert done.molecules == 8
    assert len(done.files) == 5
    assert content(store) == content(finished.path)
    assert not list(tmp_path.glob("store.*"))
    again = repair(store)
    assert (again.files, again.molecules) == ((), 0)


def test_what_is_needed_is_asked_for(finished: Finished, tmp_path: Path) -> None:
    store = shutil.copytree(finished.path, tmp_path / "store")
    flip(store / "conformers/energy/c/0")
    damaged = content(store)
    with pytest.raises(InputError, match=r"8 molecules .* give its input file molecules\.smi"):
        repair(store)
    other = write_smiles(tmp_path / "other.smi", {"O": "water"})
    with pytest.raises(StoreMismatchError, match="is not the file that"):
        repair(store, [other])
    assert content(store) == damaged
    # Metadata, offsets and the split follow from the rest.
    shutil.copytree(finished.path, store, dirs_exist_ok=True)
    flip(store / "manifest/zarr.json")
    flip(store / "molecules/split/c/0")
    with pytest.raises(StoreError, match="so that nothing tells"):
        repair(store)
    shutil.copy(finished.path / "manifest/zarr.json", store / "manifest/zarr.json")
    flip(store / "conformers/gap/zarr.json")
    flip(store / "conformers/atom_offset/c/0")
    assert repair(store).exact
    assert content(store) == content(finished.path)


def test_failures_are_made_again(scheduler: str, tmp_path: Path) -> None:
    """Rejected lines come from the input, conformers that did not converge from labelling."""
    source = write_smiles(
        tmp_path / "molecules.smi", {"O": "water", "nonsense": "", "C#N": "cyanide", "N#N": "n"}
    )
    config = load_config(
        None,
        {
            "": {"batch_conformers": 2},
            "conformers": {"per_molecule": 2},
            "dft": {**HARTREE_FOCK, "max_cycle": 5, "conv_tol": 1e-12},
            "cluster": {"scheduler": scheduler},
        },
    )
    whole = generate(source, tmp_path / "whole", config).path
    assert len({failure.stage for failure in open_dataset(whole).failures()}) == 2
    store = shutil.copytree(whole, tmp_path / "store")
    for name in ("reason", "line", "conformer"):
        flip(store / f"failures/{name}/c/0")
    assert repair(store, [source], config.cluster).exact
    assert content(store) == content(whole)


def test_other_labels_are_put_in_whole_and_noted(finished: Finished, tmp_path: Path) -> None:
    """As of other versions: this store's energies are not what its configuration gives."""
    good = open_dataset(finished.path)
    records = [*stored_records(finished.path)]
    for record in records:
        record.conformers["energy"][:] += 1e-3
        record.conformers["dipole"][:] += 1e-3
    store = tmp_path / "store"
    provenance, split = good.metadata.provenance, good.metadata.split
    write_store(store, records, [], provenance, split_seed=split.seed)
    flip(store / "conformers/energy/c/0")
    done = repair(store, [finished.source], finished.config.cluster)
    assert not done.exact
    assert verify_store(store).intact
    repaired = open_dataset(store)
    assert "8 molecules" in repaired.metadata.notes[-1]
    for name in ("energy", "dipole", "pos"):
        assert (repaired.column(name) == good.column(name)).all()


def test_commands(qmgen: Command, finished: Finished, scheduler: str, tmp_path: Path) -> None:
    store = shutil.copytree(finished.path, tmp_path / "store")
    file = next(store.glob("conformers/energy/c/*"))
    flip(file)
    done = qmgen("verify", store)
    assert done.returncode == 1
    assert "conformers/energy/c/0" in done.stdout
    assert "8 molecules have values in what is lost" in done.stdout
    assert "give its input file" in clear_message(qmgen("repair", store))
    done = qmgen("repair", store, finished.source, "--scheduler", scheduler)
    assert done.returncode == 0, done.stderr
    assert "every file has the checksum that it had" in done.stdout
    assert content(store) == content(finished.path)
