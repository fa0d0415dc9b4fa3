"""The command as a user meets it: help, messages, exit statuses, and what it imports."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import Client

from qmgen.cli import EXIT_UNSUITED
from qmgen.dataset import (
    CONFORMER,
    MOLECULE,
    Dataset,
    MoleculeRecord,
    open_dataset,
    write_store,
)
from qmgen.dataset.export import qm1b_schema
from qmgen.dataset.validation import read_validation
from qmgen.dft.functionals import FUNCTIONAL_NAMES
from qmgen.units import EV_PER_HARTREE
from tests.generate.conftest import Finished
from tests.generate.runs import (
    HARTREE_FOCK,
    Command,
    abandon,
    clear_message,
    write_smiles,
    write_yaml,
)


def imported(environment: dict[str, str], code: str) -> set[str]:
    """Top-level packages that a process has loaded after running some code."""
    show = (
        "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_nothing_heavy(environment: dict[str, str]) -> None:
    modules = imported(environment, "import qmgen.cli")
    assert "typer" in modules
    assert not modules & {"jax", "torch", "pyscf", "rdkit", "zarr", "distributed", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["generate", "validate", "info", "export", "train", "predict", "browse"]),
        (
            ["generate", "--help"],
            ["--conformers", "--basis", "--forces", "--scheduler", *FUNCTIONAL_NAMES],
        ),
        (["validate", "--help"], ["--sample", "--energy-tolerance", "--workers", "--out"]),
    ],
    ids=lambda value: "-".join(value),
)
def test_help(qmgen: Command, arguments: list[str], words: list[str]) -> None:
    done = qmgen(*arguments)
    assert done.returncode == 0
    for word in words:
        assert word in done.stdout


@dataclass(frozen=True)
class Bad:
    """Arguments of a command that can't work, and what its message must contain."""

    arguments: tuple[object, ...]
    words: tuple[str, ...]


@pytest.fixture(
    params=[
        "unknown basis",
        "unknown functional",
        "malformed YAML",
        "other configuration",
        "missing input",
        "empty input",
        "broken gzip",
        "cut-off store",
        "no store",
        "unfinished store",
        "foreign folder",
        "dispersion without parameters",
    ]
)
def bad(request: pytest.FixtureRequest, finished: Finished, tmp_path: Path) -> Bad:
    good, store = finished.source, tmp_path / "store"
    kind: str = request.param
    if kind == "unknown basis":
        words = ("command line: dft.basis: unknown basis 'sto-9g'", "sto-3g")
        return Bad(("generate", good, store, "--basis", "sto-9g"), words)
    if kind == "unknown functional":
        return Bad(("generate", good, store, "--functional", "b3lpy"), ("b3lpy", "b3lyp5", "pbe0"))
    if kind == "malformed YAML":
        file = tmp_path / "run.yaml"
        file.write_text("dft:\n  basis: [sto-3g\n", encoding="utf-8")
        return Bad(("generate", good, store, "--config", file), (str(file), "line 3", "YAML"))
    if kind == "other configuration":
        words = (str(finished.path), "made with another configuration", "choose another output")
        return Bad(("generate", good, finished.path, "--seed", 12), words)
    if kind == "missing input":
        source = tmp_path / "nowhere.smi"
        return Bad(("generate", source, store), (str(source), "No such file"))
    if kind == "empty input":
        source = tmp_path / "empty.smi"
        source.touch()
        return Bad(("generate", source, store), (str(source), "holds no record"))
    if kind == "broken gzip":
        source = tmp_path / "broken.smi.gz"
        source.write_bytes(b"O water\n")
        return Bad(("generate", source, store), (str(source), "damaged or cut short"))
    if kind == "cut-off store":
        shutil.copytree(finished.path, store)
        next(store.glob("conformers/energy/c/*")).unlink()
        return Bad(("info", store), (str(store), "is damaged", "missing", "qmgen repair"))
    if kind == "no store":
        return Bad(("info", store), (str(store), "make one with qmgen generate"))
    if kind == "unfinished store":
        abandon(good, store, finished.config)
        return Bad(("validate", store), (str(store), "has not finished; resume it"))
    if kind == "dispersion without parameters":
        config = write_yaml(tmp_path / "run.yaml", {"labels": {"dispersion": "d4"}})
        options = ("--config", config, "--functional", "svwn")
        return Bad(("generate", good, store, *options), ("D4", "svwn", "choose another functional"))
    (tmp_path / "notes.txt").write_text("keep me", encoding="utf-8")
    return Bad(("generate", good, tmp_path), (str(tmp_path), "no qmgen dataset"))


def test_mistakes_get_one_clear_line(qmgen: Command, bad: Bad) -> None:
    message = clear_message(qmgen(*bad.arguments))
    for word in bad.words:
        assert word in message


def test_forces_on_a_coarse_grid_are_warned_of_once(qmgen: Command, tmp_path: Path) -> None:
    """Before anything else is done, so also where there is no input."""
    arguments = ("generate", tmp_path / "nowhere.smi", tmp_path / "store", "--grid-level")
    warning = "qmgen: warning: Forces are computed on integration grid level 1."
    done = qmgen(*arguments, 1, "--forces")
    assert done.stderr.count(warning) == 1
    assert "use grid level 3 or finer" in done.stderr
    assert "warning" not in qmgen(*arguments, 1, "--no-forces").stderr


@pytest.mark.parametrize(
    "arguments", [["generate"], ["generate", "a.smi", "out", "--workers", "0"], ["nonsense"]]
)
def test_wrong_usage_is_told_by_the_parser(qmgen: Command, arguments: list[str]) -> None:
    done = qmgen(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_elements_that_the_basis_lacks(qmgen: Command, scheduler: str, tmp_path: Path) -> None:
    """All others are labelled, and the exit status tells that some are not."""
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water", "C[Hg]C": "dimethylmercury"})
    options = ["--functional", "hf", "--conformers", 1, "--scheduler", scheduler]
    done = qmgen("generate", source, tmp_path / "store", *options)
    assert done.returncode == EXIT_UNSUITED
    message = clear_message(done)
    assert "basis sto-3g lacks elements of 1 molecules" in message
    assert "--basis" in message
    (listed,) = [line for line in done.stdout.splitlines() if "line 2 [read]" in line]
    assert "dimethylmercury: basis sto-3g has no functions for Hg" in listed
    dataset = open_dataset(tmp_path / "store")
    assert dataset.column("smile").tolist() == ["O"]
    assert dataset.column("converged").tolist() == [True]


def test_the_same_command_again_says_so(qmgen: Command, scheduler: str, tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water"})
    options = ["--functional", "hf", "--conformers", 1, "--scheduler", scheduler]
    for words in ("1 labelled conformers, 1 of them converged", "is complete already"):
        done = qmgen("generate", source, tmp_path / "store", *options)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        assert f"next: qmgen validate {tmp_path / 'store'}" in done.stdout


def test_validate_accepts_a_good_store(qmgen: Command, finished: Finished, tmp_path: Path) -> None:
    outcome = tmp_path / "validation.json"
    done = qmgen("validate", finished.path, "--sample", 5, "--out", outcome)
    assert done.returncode == 0, done.stderr
    for word in ("5 conformers of", "energy", "gap", "dipole", "mulliken", "ok"):
        assert word in done.stdout
    assert "FAIL" not in done.stdout
    assert "all labels are within tolerance" in done.stdout
    report = read_validation(outcome, open_dataset(finished.path))
    assert report.passed
    assert (report.conformers, report.not_converged) == (5, 0)
    for error in report.errors:
        assert f"{error.maximum:.2e}" in done.stdout


def records(dataset: Dataset) -> list[MoleculeRecord]:
    made = []
    for i in range(dataset.num_molecules):
        row = dataset.molecule(i)
        fields = {name: row[name] for name in MOLECULE if name not in ("split", "z")}
        plain = {n: v if isinstance(v, str) else int(v) for n, v in fields.items()}
        conformers = {
            name: np.asarray(row[name], dtype=field.dtype) for name, field in CONFORMER.items()
        }
        made.append(MoleculeRecord(**plain, z=row["z"], conformers=conformers))
    return made


def test_validate_refuses_an_altered_energy(
    qmgen: Command, finished: Finished, tmp_path: Path
) -> None:
    """One energy of 24 is off by 1e-4 Hartree, a hundred times the tolerance."""
    good = open_dataset(finished.path)
    altered = records(good)
    altered[4].conformers["energy"][1] += 1e-4
    split = good.metadata.split
    write_store(
        tmp_path / "altered",
        altered,
        [],
        good.metadata.provenance,
        split_seed=split.seed,
        split_fractions=split.fractions,
    )
    outcome = tmp_path / "validation.json"
    done = qmgen("validate", tmp_path / "altered", "--sample", 24, "--out", outcome)
    message = clear_message(done)
    assert done.returncode == 1
    assert "differ from PySCF by more than the tolerance" in message
    assert f"qmgen info {tmp_path / 'altered'}" in message
    assert not read_validation(outcome, open_dataset(tmp_path / "altered")).passed
    failed = [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert len(failed) == 2  # in mHa and in meV
    for line in failed:
        assert "energy" in line
        assert " 13 " in line  # its row: molecule 4 has rows 12 to 14
    loose = qmgen("validate", tmp_path / "altered", "--sample", 24, "--energy-tolerance", 2e-4)
    assert loose.returncode == 0


def test_info_shows_counts_ranges_and_origin(qmgen: Command, finished: Finished) -> None:
    done = qmgen("info", finished.path)
    assert done.returncode == 0, done.stderr
    assert "8 molecules, 24 labelled conformers, 24 of them converged, 0 failures" in done.stdout
    dataset = open_dataset(finished.path)
    assert f"{dataset.column('energy').min():.6g}" in done.stdout
    assert dataset.metadata.provenance.config_hash in done.stdout
    assert dataset.metadata.provenance.source.sha256 in done.stdout


def test_export(qmgen: Command, finished: Finished, tmp_path: Path) -> None:
    file = tmp_path / "qm1b.parquet"
    done = qmgen("export", finished.path, file)
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(finished.path)
    energies = dataset.column("energy")[~np.isnan(dataset.column("gap"))]
    assert f"{len(energies)} rows written" in done.stdout
    table = pq.read_table(file)
    assert table.column_names == qm1b_schema().names
    # Only the last digit of the product may differ.
    assert np.array(table["energy"]) == pytest.approx(energies * EV_PER_HARTREE, rel=1e-14)
    assert "exists" in clear_message(qmgen("export", finished.path, file))


def test_generating_never_imports_torch(
    environment: dict[str, str], finished: Finished, scheduler: str, tmp_path: Path
) -> None:
    """Neither the main process nor a worker; Lightning and torch cost seconds and gigabytes."""
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water"})
    code = f"""
from pathlib import Path
from qmgen.generate import generate, load_config, validate
from qmgen.dataset import open_dataset
config = load_config(None, {{"dft": {HARTREE_FOCK!r}, "cluster": {{"scheduler": {scheduler!r}}}}})
generate(Path({str(source)!r}), Path({str(tmp_path / "store")!r}), config)
validate(open_dataset({str(tmp_path / "store")!r}), 1)
"""
    modules = imported(environment, code)
    assert {"jax", "distributed", "pyscf", "rdkit", "zarr"} <= modules
    assert not modules & {"torch", "schnetpack", "pytorch_lightning", "ase"}
    with Client(scheduler, set_as_default=False) as client:
        loaded = client.run(lambda: sorted({name.split(".")[0] for name in sys.modules}))
    assert len(loaded) == 2
    for names in loaded.values():
        assert {"jax", "pyscf", "rdkit"} <= set(names)
        assert not set(names) & {"torch", "schnetpack", "pytorch_lightning", "ase"}
