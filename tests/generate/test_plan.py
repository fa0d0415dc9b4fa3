"""Plans: every conformer once, one program a batch, the input's order."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from qmgen.dataset import Failure
from qmgen.dft import program_shape
from qmgen.errors import InputError, StoreError
from qmgen.generate import RunConfig, load_config, planning
from qmgen.generate.plan import Batch, Plan
from qmgen.generate.planning import build_plan
from qmgen.molecules import Molecule, read_molecules
from tests.generate.runs import HARTREE_FOCK, file_size_limit, write_smiles

# Six programs, mixed.
MOLECULES = [
    "O",
    "CC",
    "[H][H]",
    "N",
    "CCO",
    "C#N",
    "[He]",
    "C",
    "C=O",
    "F",
    "OO",
    "CC#N",
    "B",
]


def config_of(per_molecule: int = 5, batch_conformers: int = 4) -> RunConfig:
    overrides = {
        "": {"batch_conformers": batch_conformers},
        "conformers": {"per_molecule": per_molecule},
        "dft": HARTREE_FOCK,
    }
    return load_config(None, overrides)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_smiles(tmp_path / "molecules.smi", dict.fromkeys(MOLECULES, ""))


def batches_of(plan: Plan) -> list[Batch]:
    return [plan.batch(number) for number, _ in plan.batch_sizes()]


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


@pytest.mark.parametrize("per_molecule", [1, 5, 30])
@pytest.mark.parametrize("batch_conformers", [1, 4, 7, 1000])
def test_every_conformer_is_in_one_batch(
    source: Path, tmp_path: Path, per_molecule: int, batch_conformers: int
) -> None:
    config = config_of(per_molecule, batch_conformers)
    made = build_plan(source, tmp_path / "plan.sqlite", config)
    batches = batches_of(made)
    conformers: Counter[tuple[int, int]] = Counter()
    for batch, (number, size) in zip(batches, made.batch_sizes(), strict=True):
        assert batch.number == number
        shapes = set()
        for part in batch.slices:
            molecule = Molecule.from_json(part.molecule_json)
            # Every line is a molecule here, so a molecule's place is that of its line.
            assert molecule.line == part.number + 1
            assert part.start < part.stop
            shapes.add(program_shape(molecule.atomic_numbers, config.dft))
            conformers.update((part.number, i) for i in range(part.start, part.stop))
        assert len(shapes) == 1
        assert size == sum(part.stop - part.start for part in batch.slices) <= batch_conformers
    wanted = {(n, i) for n in range(len(MOLECULES)) for i in range(per_molecule)}
    assert conformers == Counter(wanted)
    counts = made.counts()
    assert counts.conformers == len(wanted)
    assert (counts.molecules, counts.batches) == (len(MOLECULES), len(batches))
    assert (counts.rejected, counts.unsuited) == (0, 0)


def test_programs_share_out_all_molecules(source: Path, tmp_path: Path) -> None:
    config = config_of()
    made = build_plan(source, tmp_path / "plan.sqlite", config)
    expected = Counter(
        program_shape(molecule.atomic_numbers, config.dft)
        for molecule in read_molecules(source)
        if isinstance(molecule, Molecule)
    )
    programs = made.programs()
    assert Counter(p.molecules for p in programs) == Counter(expected.values())
    assert [p.conformers for p in programs] == sorted(5 * n for n in expected.values())[::-1]
    for program in programs:
        ends = [
            Molecule.from_json(made.molecule_json(number))
            for number in (program.first, program.last)
        ]
        assert len({program_shape(m.atomic_numbers, config.dft) for m in ends}) == 1
        assert (program.first == program.last) == (program.molecules == 1)


def test_a_molecule_beyond_a_batch_is_cut(tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "one.smi", {"O": "water"})
    made = build_plan(source, tmp_path / "plan.sqlite", config_of(10, 4))
    slices = [(p.start, p.stop) for batch in batches_of(made) for p in batch.slices]
    assert slices == [(0, 4), (4, 8), (8, 10)]
    assert made.counts().batches == 3


def test_batches_of_a_program_are_filled(tmp_path: Path) -> None:
    """Molecules that share a program share batches, so that only the last one is not full."""
    molecules = [f"[{mass}H]O[{other}H]" for mass in (1, 2, 3) for other in (1, 2, 3)]
    source = write_smiles(tmp_path / "w.smi", dict.fromkeys([*molecules, "N", "F", "B"], ""))
    made = build_plan(source, tmp_path / "plan.sqlite", config_of(2, 8))
    sizes = [size for _, size in made.batch_sizes()]
    assert sum(sizes) == 2 * made.counts().molecules
    assert all(size == 8 for size in sizes[:-1])


@pytest.mark.parametrize(
    ("constant", "value"), [("_WINDOW_MOLECULES", 3), ("_WINDOW_CONFORMERS", 15)]
)
def test_windows_keep_the_order_of_the_input(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value: int
) -> None:
    """Each window holds the next three molecules, for 5 conformers each, and none is in two."""
    monkeypatch.setattr(planning, constant, value)
    made = build_plan(source, tmp_path / "plan.sqlite", config_of())
    windows = [
        sorted({part.number for batch in window for part in made.batch(batch).slices})
        for window in made.windows()
    ]
    n = len(MOLECULES)
    assert windows == [list(range(i, min(i + 3, n))) for i in range(0, n, 3)]
    assert [batch for window in made.windows() for batch in window] == [
        number for number, _ in made.batch_sizes()
    ]


def test_a_given_geometry_is_one_conformer_or_rattled_copies(tmp_path: Path) -> None:
    xyz = tmp_path / "hydrogen.xyz"
    xyz.write_text("2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n", encoding="utf-8")
    config = config_of()
    made = build_plan(xyz, tmp_path / "plain.sqlite", config)
    assert made.counts().conformers == 1
    rattled = load_config(
        None, {"conformers": {"per_molecule": 5, "rattle_angstrom": 0.01}, "dft": HARTREE_FOCK}
    )
    assert build_plan(xyz, tmp_path / "rattled.sqlite", rattled).counts().conformers == 5


def test_what_is_not_accepted_is_listed(tmp_path: Path) -> None:
    source = tmp_path / "mixed.smi"
    lines = ["OCC ethanol", "C1CC ring", "[H+] proton", "CCO again", "C[Hg]C toxic", "O.O two"]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = build_plan(source, tmp_path / "plan.sqlite", config_of())
    failures = list(made.failures())
    assert {f.stage for f in failures} == {"read"}
    assert {f.conformer for f in failures} == {-1}
    assert [(f.line, f.source_id) for f in failures] == [
        (2, "ring"),
        (3, "proton"),
        (4, "again"),
        (5, "toxic"),
        (6, "two"),
    ]
    expected = [
        "unclosed ring",
        "no electrons",
        "duplicate of line 1",
        "basis sto-3g has no functions for Hg",
        "2 fragments",
    ]
    for failure, words in zip(failures, expected, strict=True):
        assert words in failure.reason
    counts = made.counts()
    assert (counts.molecules, counts.rejected, counts.unsuited) == (1, 5, 1)


def test_reasons_are_counted_and_repeats_are_one_reason(tmp_path: Path) -> None:
    source = tmp_path / "repeats.smi"
    source.write_text("O\nN\n[OH2]\nN\nO\n[H+]\n", encoding="utf-8")
    reasons = build_plan(source, tmp_path / "plan.sqlite", config_of()).rejected_by_reason()
    assert next(iter(reasons.items())) == ("duplicate", 3)
    assert sorted(reasons.values()) == [1, 3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1CC\n", "line 1: "),
        ("[H+]\n", "no electrons"),
        ("C[Hg]C\n", "Hg"),
        ("", "no record"),
    ],
)
def test_nothing_to_label(tmp_path: Path, text: str, reason: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    source = tmp_path / "bad.smi"
    source.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=reason) as caught:
        build_plan(source, folder / "plan.sqlite", config_of())
    assert str(source) in str(caught.value)
    assert not (folder / "plan.sqlite").exists()


def test_a_plan_that_is_there_is_kept(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.sqlite"
    build_plan(source, path, config_of())
    before = path.read_bytes()
    source.write_text("C\n", encoding="utf-8")
    assert build_plan(source, path, config_of(2, 2)).counts().molecules == len(MOLECULES)
    assert path.read_bytes() == before


def test_equal_input_gives_an_equal_plan(source: Path, tmp_path: Path) -> None:
    one = build_plan(source, tmp_path / "one.sqlite", config_of())
    other = build_plan(source, tmp_path / "other.sqlite", config_of())
    assert content(one.path) == content(other.path)
    different = build_plan(source, tmp_path / "different.sqlite", config_of(5, 3))
    assert content(one.path) != content(different.path)


def test_what_a_killed_attempt_left_is_no_plan(source: Path, tmp_path: Path) -> None:
    clean = build_plan(source, tmp_path / "clean.sqlite", config_of())
    path = tmp_path / "plan.sqlite"
    path.with_suffix(".tmp").write_bytes(clean.path.read_bytes()[:5000])
    assert content(build_plan(source, path, config_of()).path) == content(clean.path)


def test_a_full_disk_leaves_no_plan(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "plan.sqlite"
    path.parent.mkdir()
    with file_size_limit(8192), pytest.raises(StoreError, match="free disk space"):
        build_plan(source, path, config_of())
    assert not path.exists()
    assert build_plan(source, path, config_of()).counts().molecules == len(MOLECULES)


def test_label_failures_replace_those_of_an_earlier_attempt(source: Path, tmp_path: Path) -> None:
    source.write_text("O\nN\nC1CC\n", encoding="utf-8")
    made = build_plan(source, tmp_path / "plan.sqlite", config_of())
    (rejected,) = made.failures()
    old = Failure(1, "", "O", 2, "label", "too hot")
    new = [Failure(2, "", "N", i, "embed", "too cold") for i in (3, 1)]
    made.add_label_failures([old])
    assert list(made.failures()) == [old, rejected]
    made.forget_label_failures()
    for failure in new:
        made.add_label_failures([failure])
    # Ordered by line and conformer, whatever the order in which they came.
    assert list(made.failures()) == [new[1], new[0], rejected]
    assert made.counts().rejected == 1


def test_many_failures_while_the_plan_is_being_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite locks the file once a transaction outgrows its cache of 2 MB; 13 MB come here."""
    monkeypatch.setattr(planning, "_WINDOW_MOLECULES", 3)
    made = build_plan(source, tmp_path / "plan.sqlite", config_of())
    windows = sum(1 for _ in made.windows())
    for window, _ in enumerate(made.windows()):
        numbers = range(2600 * window, 2600 * (window + 1))
        made.add_label_failures(Failure(1, "", "O", i, "label", "x" * 1000) for i in numbers)
    assert [f.conformer for f in made.failures()] == list(range(2600 * windows))
