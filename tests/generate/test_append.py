"""Molecules and labels that are appended are what a run of their own would have made."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qmgen.dataset import batch_loader, open_dataset, store_digest, stored_records, verify_store
from qmgen.errors import ConfigError, InputError, StoreError, StoreMismatchError
from qmgen.generate import RunConfig, append_labels, append_molecules, generate, load_config, merge
from qmgen.generate.append_labels import level_name
from qmgen.generate.lock import store_lock
from qmgen.generate.repair import repair
from tests.generate.runs import HARTREE_FOCK, Command, clear_message, write_smiles
from tests.generate.test_repair import content, flip

OLD = {"O": "water", "CC": "ethane", "CCO": "ethanol", "nonsense": "x"}
NEW = {"CCC": "propane", "OCC": "ethanol again", "bad": "y", "CC=O": "", "CO": "methanol"}


def trial(scheduler: str, **sections: dict) -> RunConfig:
    """A run whose labels cost next to nothing."""
    return load_config(
        None,
        {
            "": {"method": "mmff94", "batch_conformers": 4},
            "conformers": {"per_molecule": 3},
            "cluster": {"scheduler": scheduler},
            **sections,
        },
    )


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    old = write_smiles(tmp_path / "old.smi", OLD)
    return old, write_smiles(tmp_path / "new.smi", NEW)


def same_molecules(store: Path, other: Path) -> None:
    for one, two in zip(stored_records(store), stored_records(other), strict=True):
        assert (one.line, one.smile, one.source_id) == (two.line, two.smile, two.source_id)
        for name, values in one.conformers.items():
            np.testing.assert_array_equal(values, two.conformers[name], strict=True)


def test_appending_is_generating_and_merging(
    scheduler: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = inputs
    rounding = {"storage": {"precision": {"pos": 1e-4, "energy": 1e-6}}}
    config = trial(scheduler, **rounding)
    store = generate(old, tmp_path / "store", config).path
    splits = [open_dataset(store).molecule(row)["split"] for row in range(3)]
    done = append_molecules(store, new, config.cluster)
    assert (done.molecules, done.duplicates, done.failures) == (3, 1, 2)
    assert verify_store(store).intact
    assert {path.name for path in store.iterdir()} == {
        "zarr.json",
        "manifest",
        "molecules",
        "conformers",
        "failures",
    }
    dataset = open_dataset(store)
    assert [dataset.molecule(row)["split"] for row in range(3)] == splits
    generate(old, tmp_path / "old", config)
    generate(new, tmp_path / "new", config)
    merge(tmp_path / "merged", [tmp_path / "old", tmp_path / "new"])
    same_molecules(store, tmp_path / "merged")
    merged = open_dataset(tmp_path / "merged").metadata
    assert dataset.metadata.counts == merged.counts
    assert dataset.metadata.precision == rounding["storage"]["precision"]
    assert dataset.metadata.provenance.source == merged.provenance.source
    for part, other in zip(dataset.metadata.parts, merged.parts, strict=True):
        assert (part.source, part.duplicates) == (other.source, other.duplicates)
        assert part.counts.molecules == other.counts.molecules
    reasons = [failure.reason for failure in dataset.failures()]
    assert reasons[1] == "duplicate of a molecule of the dataset"
    # Done once, it is done; a further part goes on from there.
    before = store_digest(store)
    assert append_molecules(store, new, config.cluster).already_complete
    assert store_digest(store) == before
    more = write_smiles(tmp_path / "more.smi", {"CCCC": "butane", "CCC": "propane"})
    assert append_molecules(store, more, config.cluster).duplicates == 1
    assert len(open_dataset(store).metadata.parts) == 3
    # A merge knows which rows are whose.
    merge(tmp_path / "one", [store])
    same_molecules(store, tmp_path / "one")
    assert verify_store(tmp_path / "one").intact


def test_labels_at_another_level(scheduler: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    config = trial(scheduler)
    store = generate(inputs[0], tmp_path / "store", config).path
    asked = config.model_copy(update={"labels": config.labels.model_copy(update={"forces": True})})
    expected = open_dataset(generate(inputs[0], tmp_path / "forces", asked).path)
    done = append_labels(store, ["forces"], config, name="again")
    assert done.metadata.levels[0].labels == ("forces",)
    dataset = open_dataset(store)
    assert (dataset.column("forces@again") == expected.column("forces")).all()
    assert verify_store(store).intact
    assert append_labels(store, ["forces"], config, name="again").already_complete
    with pytest.raises(StoreMismatchError, match="choose another name with --name"):
        append_labels(store, ["energy"], config, name="again")
    with pytest.raises(ConfigError, match="no label 'pos' can be appended"):
        append_labels(store, ["pos"], config)
    with pytest.raises(StoreError, match=r"labels at other levels \(again\)"):
        append_molecules(store, inputs[1], config.cluster)


def test_what_fails_is_missing_and_listed(scheduler: str, tmp_path: Path) -> None:
    """The level's basis has no iodine."""
    source = write_smiles(tmp_path / "in.smi", {"O": "water", "CI": "iodomethane"})
    store = generate(source, tmp_path / "store", trial(scheduler)).path
    level = load_config(
        None, {"dft": {**HARTREE_FOCK, "basis": "6-31g"}, "cluster": {"scheduler": scheduler}}
    )
    assert level_name(level) == "hf_6-31g_0"
    done = append_labels(store, ["energy", "dipole"], level)
    dataset = open_dataset(store)
    energy = dataset.column("energy@hf_6-31g_0")
    water = dataset.column("smile") == "O"
    # Of the basis' paper, -75.985 Hartree in equilibrium.
    np.testing.assert_allclose(energy[water], -75.98, atol=0.02)
    assert np.isnan(energy[~water]).all()
    assert dataset.column("dipole@hf_6-31g_0").shape == (len(dataset), 3)
    *_, failure = dataset.failures()
    assert (done.failures, failure.smile, failure.stage) == (1, "CI", "label")
    assert failure.reason.startswith("at the level hf_6-31g_0: ")
    assert verify_store(store).intact
    loader = batch_loader(dataset, 2, columns=("energy",), labels=("energy@hf_6-31g_0",))
    assert len(loader.mask) == np.isfinite(energy).sum() == 3


def test_an_appended_store_is_repaired(
    scheduler: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """Each part from its own input, without the molecules that were left out of it."""
    old, new = inputs
    config = trial(scheduler)
    store = generate(old, tmp_path / "store", config).path
    append_molecules(store, new, config.cluster)
    whole = content(store)
    for name in ("conformers/energy/c/0", "molecules/smile/c/0", "conformers/atom_offset/c/0"):
        flip(store / name)
    with pytest.raises(InputError, match=r"give its input file new\.smi"):
        repair(store, [old], config.cluster)
    assert repair(store, [new, old], config.cluster).exact
    assert content(store) == whole
    flip(store / "molecules/split/c/0")
    with pytest.raises(StoreError, match=r"made of 2 parts, whose molecules/split can't be"):
        repair(store, [new, old], config.cluster)


def test_refusals(scheduler: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = inputs
    config = trial(scheduler)
    with pytest.raises(StoreError, match="there is no dataset"):
        append_molecules(tmp_path / "nowhere", new)
    store = generate(old, tmp_path / "store", config).path
    with pytest.raises(InputError, match="can't read the input"):
        append_molecules(store, tmp_path / "nothing.smi")
    known = write_smiles(tmp_path / "known.smi", {"CC": "ethane"})
    with pytest.raises(InputError, match="duplicate of a molecule of the dataset"):
        append_molecules(store, known, config.cluster)
    assert not (store / "growth").exists()
    with store_lock(store):
        with pytest.raises(StoreMismatchError, match="another qmgen process"):
            append_molecules(store, new, config.cluster)
        with pytest.raises(StoreMismatchError, match="another qmgen process"):
            repair(store)
        assert verify_store(store).intact
    assert not (store / "run.lock").exists()
    metadata = json.loads((store / "zarr.json").read_text())
    metadata["attributes"]["notes"] = ["changed"]
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match="is damaged"):
        append_molecules(store, new, config.cluster)


_KILLED = """
import os, signal, sys
left, real = int(sys.argv.pop(1)), os.replace
def replace(*paths, **options):
    global left
    real(*paths, **options)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from qmgen.cli import main
main()
"""


def killed(environment: dict[str, str], moment: int, *arguments: object) -> int:
    """Run the command and kill it when so many files have been put in place; gives its status."""
    line = [sys.executable, "-c", _KILLED, str(moment), *map(str, arguments)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=180)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.mark.slow
def test_killed_at_each_step(
    environment: dict[str, str], scheduler: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """Each attempt is killed some files later than the one before got to; then it is left alone."""
    old, new = inputs
    config = trial(scheduler)
    quiet = generate(old, tmp_path / "quiet", config).path
    store = generate(old, tmp_path / "store", config).path
    before = store_digest(store)
    append_molecules(quiet, new, config.cluster)
    after = store_digest(quiet)
    # What is to be done, the plan, batches, some 90 files that are written beside, about as many
    # that are put in place.
    for moment in (1, 1, 1, 2, 1, 50, 88, 100, 3, 40, 200):
        status = killed(environment, moment, "append", store, new, "--scheduler", scheduler)
        found = verify_store(store)
        assert found.intact, found
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert store_digest(store) in (before, after)
        open_dataset(store).batch(slice(None))
    else:
        pytest.fail("not done after so many attempts")
    assert store_digest(store) == after
    assert sorted(os.listdir(store)) == sorted(os.listdir(quiet))


@pytest.mark.slow
def test_command(qmgen: Command, scheduler: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = inputs
    store = generate(old, tmp_path / "store", trial(scheduler)).path
    assert "say what to append" in clear_message(qmgen("append", store))
    done = qmgen("append", store, new, "--scheduler", scheduler)
    assert done.returncode == 0, done.stderr
    assert "3 molecules with 9 conformers added, 1 that it had left out" in done.stdout
    level = ["--label", "forces", "--method", "mmff94", "--name", "force-field"]
    done = qmgen("append", store, *level, "--scheduler", scheduler)
    assert done.returncode == 0, done.stderr
    assert "forces@force-field of 18 conformers, 0 failures" in done.stdout


def test_what_is_below_a_url_is_not_appended_to(
    memory: str, inputs: tuple[Path, Path], scheduler: str
) -> None:
    with pytest.raises(StoreError, match="can't be changed in place"):
        append_molecules(memory, inputs[1])
    with pytest.raises(StoreError, match="can't be changed in place"):
        append_labels(memory, ["energy"], trial(scheduler))
