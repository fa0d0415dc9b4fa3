"""Whole runs: the store they make, what they refuse, and who may do the work."""

import gzip
import json
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from distributed import Client
from scipy import constants

from qmgen.dataset import config_hash, file_sha256, open_dataset, store_digest, verify_store
from qmgen.errors import (
    InputError,
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
)
from qmgen.generate import RunConfig, generate, load_config, validate
from qmgen.generate.parts import part_path, save_part
from qmgen.generate.plan import Plan
from qmgen.generate.worker import label_batch
from qmgen.inspection import read_run_history
from qmgen.molecules import embed_conformers, mmff94, molecule_from_smiles
from qmgen.units import BOHR_PER_ANGSTROM
from tests.generate.conftest import Finished, Long
from tests.generate.runs import HARTREE_FOCK, ONE_PROGRAM, abandon, write_smiles


def quick(scheduler: str, **top: object) -> RunConfig:
    return load_config(
        None,
        {
            "": top,
            "conformers": {"per_molecule": 2},
            "dft": HARTREE_FOCK,
            "cluster": {"scheduler": scheduler},
        },
    )


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_molecules_and_conformers_keep_the_order_of_the_input(finished: Finished) -> None:
    dataset = open_dataset(finished.path)
    lines = [line.split(" ", 1) for line in finished.source.read_text().splitlines()]
    rows = [dataset.molecule(i) for i in range(dataset.num_molecules)]
    assert [row["smile"] for row in rows] == [
        molecule_from_smiles(smiles).smiles for smiles, _ in lines
    ]
    assert [row["source_id"] for row in rows] == [name for _, name in lines]
    assert [row["line"] for row in rows] == list(range(1, len(lines) + 1))
    for row in rows:
        assert row["index"].tolist() == [0, 1, 2]
        assert row["converged"].all()
        assert row["spin"] == 0


def test_positions_are_the_embedded_ones_in_bohr(finished: Finished) -> None:
    dataset = open_dataset(finished.path)
    for i in range(dataset.num_molecules):
        row = dataset.molecule(i)
        positions_angstrom = embed_conformers(
            molecule_from_smiles(row["smile"]), finished.config.conformers, finished.config.seed
        )
        assert np.array_equal(row["pos"], positions_angstrom * BOHR_PER_ANGSTROM)


def test_labels_equal_pyscf(finished: Finished) -> None:
    dataset = open_dataset(finished.path)
    seen: list[int] = []
    report = validate(dataset, 10**6, progress=seen.append)
    assert report.conformers == len(dataset) == 24
    assert seen == list(range(1, 25))
    assert report.not_converged == 0
    assert report.passed, report.errors
    compared = {e.label for e in report.errors}
    assert {"energy", "homo", "lumo", "gap", "dipole", "mulliken_charges"} <= compared


def test_an_atom_without_empty_orbital_has_no_gap(finished: Finished) -> None:
    dataset = open_dataset(finished.path)
    smiles = dataset.column("smile")
    for name in ("lumo", "gap"):
        assert np.array_equal(np.isnan(dataset.column(name)), smiles == "[He]")


def test_the_store_says_how_it_was_made(finished: Finished) -> None:
    metadata = open_dataset(finished.path).metadata
    provenance = metadata.provenance
    assert provenance.config == finished.config.science()
    assert provenance.config_hash == config_hash(finished.config.science())
    assert RunConfig.model_validate(provenance.config).dft == finished.config.dft
    assert provenance.seed == 11
    assert provenance.source.name == "molecules.smi"
    assert provenance.source.sha256 == file_sha256(finished.source)
    assert provenance.versions["pyscf"][0].isdigit()
    assert provenance.hardware.devices
    assert metadata.split.seed == finished.config.split.seed
    assert metadata.split.fractions == finished.config.split.fractions
    assert metadata == finished.summary.metadata
    assert (metadata.counts.molecules, metadata.counts.converged) == (8, 24)
    assert (metadata.counts.failures, metadata.counts.rejected) == (0, {})


def test_the_run_leaves_its_store_only(finished: Finished) -> None:
    expected = {"zarr.json", "molecules", "conformers", "failures", "manifest"}
    assert {path.name for path in finished.path.iterdir()} == expected
    assert verify_store(finished.path).intact
    assert not finished.summary.already_complete
    assert finished.summary.resumed_batches == 0


def test_a_finished_run_is_not_done_again(finished: Finished) -> None:
    before = files_of(finished.path)
    again = generate(finished.source, finished.path, finished.config)
    assert again.already_complete
    assert again.metadata == finished.summary.metadata
    assert files_of(finished.path) == before


def test_who_does_the_work_does_not_matter(
    undisturbed: Long, scheduler: str, tmp_path: Path
) -> None:
    """One worker with all cores, two with one each, and a cluster give the same bits."""
    base = load_config(undisturbed.config)
    digests = [store_digest(undisturbed.store)]
    for name, cluster in {"one": {"workers": 1}, "cluster": {"scheduler": scheduler}}.items():
        config = load_config(undisturbed.config, {"cluster": {"workers": None, **cluster}})
        assert config.science() == base.science()
        generate(undisturbed.source, tmp_path / name, config)
        digests.append(store_digest(tmp_path / name))
    assert len(set(digests)) == 1


def test_another_seed_gives_another_store(scheduler: str, tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "water.smi", {"O": "water"})
    for seed in (1, 2):
        generate(source, tmp_path / str(seed), quick(scheduler, seed=seed))
    positions = [open_dataset(tmp_path / str(seed)).column("pos") for seed in (1, 2)]
    assert positions[0].shape == positions[1].shape
    assert not np.allclose(*positions)


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("what", ["configuration", "input"])
def test_an_output_of_another_run_is_refused(
    finished: Finished, tmp_path: Path, what: str, unfinished: bool
) -> None:
    output, source, config = finished.path, tmp_path / "other.smi", finished.config
    source.write_bytes(finished.source.read_bytes())
    if unfinished:
        output = tmp_path / "run"
        abandon(source, output, config)
    if what == "configuration":
        config = config.model_copy(update={"seed": 2})
    else:
        source.write_text("O\n", encoding="utf-8")
    before = files_of(output)
    with pytest.raises(StoreMismatchError, match=f"made with another {what}; choose another"):
        generate(source, output, config)
    assert files_of(output) == before


def test_an_unfinished_run_is_no_dataset(finished: Finished, tmp_path: Path) -> None:
    abandon(finished.source, tmp_path / "run", finished.config)
    with pytest.raises(StoreIncompleteError, match="resume it with the same"):
        open_dataset(tmp_path / "run")


@pytest.mark.parametrize("kind", ["folder", "file", "other Zarr store"])
def test_what_is_no_run_is_left_alone(
    finished: Finished, scheduler: str, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "precious"
    if kind == "file":
        output.write_text("thesis", encoding="utf-8")
    else:
        output.mkdir()
        (output / "thesis.tex").write_text("thesis", encoding="utf-8")
    if kind == "other Zarr store":
        (output / "zarr.json").write_text(
            '{"zarr_format": 3, "node_type": "group", "attributes": {}}', encoding="utf-8"
        )
    before = files_of(tmp_path)
    with pytest.raises(StoreError, match="no qmgen dataset"):
        generate(finished.source, output, quick(scheduler))
    assert files_of(tmp_path) == before


def test_a_process_killed_before_it_did_anything_is_no_obstacle(
    scheduler: str, tmp_path: Path
) -> None:
    source = write_smiles(tmp_path / "water.smi", {"O": "water"})
    clean = generate(source, tmp_path / "clean", quick(scheduler))
    output = tmp_path / "run"
    output.mkdir()
    (output / "qmgen-run.tmp").write_text('{"configu', encoding="utf-8")
    generate(source, output, quick(scheduler))
    assert store_digest(output) == store_digest(clean.path)
    assert not (output / "qmgen-run.tmp").exists()


def test_a_damaged_marker_is_named(finished: Finished, scheduler: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "qmgen-run.json").write_text('{"configu', encoding="utf-8")
    with pytest.raises(StoreError, match=r"qmgen-run\.json is damaged .* delete"):
        generate(finished.source, output, quick(scheduler))


def test_a_file_with_a_third_of_broken_lines(scheduler: str, tmp_path: Path) -> None:
    good = list(ONE_PROGRAM)
    broken = {2: "C1CC", 5: "not a molecule", 7: "C(C)(C)(C)(C)C", 10: "[H+]"}
    source = tmp_path / "mixed.smi"
    rest = iter(good)
    lines = [broken.get(n) or next(rest) for n in range(1, len(good) + len(broken) + 1)]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = generate(source, tmp_path / "store", quick(scheduler))
    dataset = open_dataset(tmp_path / "store")
    expected = [molecule_from_smiles(smiles).smiles for smiles in good]
    assert [dataset.molecule(i)["smile"] for i in range(len(good))] == expected
    assert dataset.column("converged").tolist() == [True] * 2 * len(good)
    wanted = [n for n in range(1, len(lines) + 1) if n not in broken]
    assert [dataset.molecule(i)["line"] for i in range(len(good))] == wanted
    failures = list(dataset.failures())
    assert [f.line for f in failures] == list(broken)
    assert {f.stage for f in failures} == {"read"}
    assert all(f.reason for f in failures)
    assert sum(summary.metadata.counts.rejected.values()) == len(broken)


def test_failures_of_labelling_are_stored_with_their_place(scheduler: str, tmp_path: Path) -> None:
    source = tmp_path / "hard.smi"
    source.write_text("O water\nC1#CC1 strained\nC[Hg]C toxic\nN ammonia\n", encoding="utf-8")
    config = load_config(
        None,
        {
            "conformers": {"per_molecule": 3},
            "dft": {**HARTREE_FOCK, "max_cycle": 5, "level_shift": 0.0, "damping": 0.0},
            "cluster": {"scheduler": scheduler},
        },
    )
    summary = generate(source, tmp_path / "store", config)
    assert summary.unsuited_molecules == 1
    dataset = open_dataset(tmp_path / "store")
    found = [(f.line, f.conformer, f.stage) for f in dataset.failures()]
    unconverged = [(row["line"], row["index"], "label") for row in dataset if not row["converged"]]
    assert unconverged
    assert sorted(found) == sorted([*unconverged, (2, -1, "embed"), (3, -1, "read")])
    assert dataset.metadata.counts.converged == len(dataset) - len(unconverged)
    assert [dataset.molecule(i)["line"] for i in range(dataset.num_molecules)] == [1, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.smi", b"", "holds no record"),
        ("blank.smi", b"\n\n# nothing\n", "holds no record"),
        ("missing.smi", None, "can't read the input"),
        ("damaged.smi.gz", gzip.compress(b"O\nN\n" * 1000)[:40], "damaged or cut short"),
        ("no.smi.gz", b"O water\n", "damaged or cut short"),
        ("molecules.pdf", b"%PDF", "unknown kind of file"),
        ("binary.smi", bytes(range(128, 256)), "not UTF-8"),
        ("table.csv", b"name,formula\nwater,H2O\n", "column"),
        ("broken.smi", b"C1CC\nnot a molecule\n", "no molecule can be labelled"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_unreadable_input_leaves_nothing_behind(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        generate(source, tmp_path / "store", RunConfig())
    assert str(source) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_folder_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't read the input"):
        generate(tmp_path, tmp_path / "store", RunConfig())


def test_a_damaged_batch_is_done_again(scheduler: str, tmp_path: Path) -> None:
    """An attempt left three batches, of which one is truncated, which shows when it is read."""
    source = write_smiles(tmp_path / "molecules.smi", ONE_PROGRAM)
    config = quick(scheduler, batch_conformers=2)
    clean = generate(source, tmp_path / "clean", config)
    output = tmp_path / "run"
    abandon(source, output, config)
    plan = Plan(output / "plan.sqlite")
    for number in (0, 1, 3):
        save_part(output / "parts", number, label_batch(plan.batch(number), config, 1))
    cut = part_path(output / "parts", 3)
    cut.write_bytes(cut.read_bytes()[:-30])
    summary = generate(source, output, config)
    assert (summary.resumed_batches, summary.batches) == (3, len(ONE_PROGRAM))
    assert store_digest(output) == store_digest(clean.path)


def test_a_run_tells_what_it_does(scheduler: str, tmp_path: Path) -> None:
    """In its log, over two attempts, and on the scheduler's metrics page."""
    molecules = {"C": "", "CC": "", "[He]": "", "CO": ""}
    source = write_smiles(tmp_path / "molecules.smi", molecules)
    config = load_config(
        None,
        {
            "": {"method": "mmff94", "batch_conformers": 3},
            "conformers": {"per_molecule": 3},
            "cluster": {"scheduler": scheduler},
        },
    )
    log = tmp_path / "log.jsonl"
    abandon(source, tmp_path / "store", config)
    save_part(
        tmp_path / "store" / "parts",
        0,
        label_batch(Plan(tmp_path / "store" / "plan.sqlite").batch(0), config, 1),
    )
    generate(source, tmp_path / "store", config, log=log)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", *["batch"] * 3, "end"]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert (events[0]["molecules"], events[0]["conformers"], events[-1]["conformers"]) == (4, 12, 9)
    batches = {event["batch"]: event for event in events[1:-1]}
    assert sorted(batches) == [1, 2, 3]
    assert sorted(event["conformers"] for event in batches.values()) == [0, 3, 3]
    (failure,) = [failure for event in batches.values() for failure in event["failures"]]
    assert (failure["line"], failure["stage"]) == (3, "label")
    # The report reads it; of the nine conformers three were labelled before.
    (attempt,) = read_run_history(log, open_dataset(tmp_path / "store")).attempts
    assert attempt.ended
    assert [b.number for b in attempt.batches] == [*batches]
    assert [b.conformers for b in attempt.batches] == [b["conformers"] for b in batches.values()]
    assert sum(b.failures for b in attempt.batches) == 1
    with Client(scheduler, set_as_default=False) as client:
        page = client.run_on_scheduler(metrics_page)
    assert "qmgen_conformers_committed 12.0" in page
    assert "qmgen_conformers_planned 12.0" in page


def metrics_page() -> str:
    return prometheus_client.generate_latest().decode()


@pytest.mark.slow
def test_a_molecule_that_takes_too_long_is_recorded(tmp_path: Path) -> None:
    """A thousand conformers of a long chain take RDKit many times the four seconds."""
    source = write_smiles(tmp_path / "molecules.smi", {"C": "", "C" * 40: "", "CO": ""})
    config = load_config(
        None,
        {
            "": {"method": "mmff94", "batch_conformers": 1000},
            "conformers": {"per_molecule": 1000},
            "cluster": {"workers": 1, "batch_hours": 4 / 3600},
        },
    )
    summary = generate(source, tmp_path / "store", config)
    dataset = open_dataset(summary.path)
    assert dataset.column("smile", [0, -1]).tolist() == ["C", "CO"]
    assert len(dataset) == 2000
    (failure,) = dataset.failures()
    assert (failure.line, failure.stage) == (2, "label")
    assert "most likely out of memory or time" in failure.reason


def test_labels_of_a_force_field(scheduler: str, tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "molecules.smi", {"CCO": "", "[CH3]": "radical", "[He]": ""})
    config = load_config(
        None,
        {
            "": {"method": "mmff94", "seed": 7},
            "labels": {"forces": True},
            "conformers": {"per_molecule": 4},
            "cluster": {"scheduler": scheduler},
        },
    )
    dataset = open_dataset(generate(source, tmp_path / "store", config).path)
    molecule = molecule_from_smiles("CCO")
    positions_angstrom = embed_conformers(molecule, config.conformers, 7)
    energies, gradients = mmff94(molecule, positions_angstrom)
    row = dataset.molecule(0)
    # 1 kcal/mol = 4184 J/mol by definition.
    hartree = constants.physical_constants["Hartree energy"][0] * constants.N_A / 4184
    bohr = constants.physical_constants["Bohr radius"][0] * 1e10
    assert row["energy"] == pytest.approx(energies / hartree, rel=1e-8)
    assert row["forces"] == pytest.approx(-gradients / hartree * bohr, rel=1e-8, abs=1e-12)
    assert row["converged"].all()
    assert np.isnan([row["homo"], row["lumo"], row["gap"]]).all()
    assert any("MMFF94" in note for note in dataset.metadata.notes)
    with pytest.raises(StoreError, match="mmff94, which PySCF does not have"):
        validate(dataset, 2)
