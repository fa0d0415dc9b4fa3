"""Tables and SMILES lists, broken files, memory."""

import gzip
import itertools
import tracemalloc
from pathlib import Path

import pytest
from rdkit import Chem

from qmgen.errors import InputError
from qmgen.molecules import Molecule, RejectedRecord, read_molecules

DATA = Path(__file__).parents[1] / "data" / "molecules"


def split(path: Path, **options: str) -> tuple[list[Molecule], list[RejectedRecord]]:
    records = list(read_molecules(path, **options))
    return (
        [record for record in records if isinstance(record, Molecule)],
        [record for record in records if isinstance(record, RejectedRecord)],
    )


def test_gdb_sample_is_read_whole() -> None:
    lines = (DATA / "gdb_sample.smi").read_text().split()
    molecules, rejected = split(DATA / "gdb_sample.smi")
    assert not rejected
    assert [m.line for m in molecules] == list(range(1, len(lines) + 1))
    assert [m.smiles for m in molecules] == [Chem.CanonSmiles(line) for line in lines]
    assert all((m.charge, m.spin) == (0, 0) for m in molecules)


def test_smi_headers_comments_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.SMI"
    path.write_text(
        "\ufeff# made by hand\nSMILES\tid\n\nCCO\tethanol no. 1\r\n  C  methane \n#x\nO"
    )
    molecules, rejected = split(path)
    assert not rejected
    assert [(m.smiles, m.source_id, m.line) for m in molecules] == [
        ("CCO", "ethanol no. 1", 4),
        ("C", "methane", 5),
        ("O", "", 7),
    ]


def test_header_counts_only_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_text("C\nsmiles id\n")
    molecules, rejected = split(path)
    assert [m.line for m in molecules] == [1]
    assert [(r.line, r.text, r.source_id) for r in rejected] == [(2, "smiles", "id")]


def test_cxsmiles_is_not_read_as_an_id(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_text("CC |^1:0|\n")
    assert split(path)[1][0].reason.startswith("CXSMILES")


def test_gzip_reads_as_plain(tmp_path: Path) -> None:
    for name in ("gdb_sample.smi", "qm9_sample.csv", "qm9_sample.xyz"):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((DATA / name).read_bytes()))
        plain, packed = split(DATA / name)[0], split(path)[0]
        assert [m.to_json() for m in packed] == [m.to_json() for m in plain]


def test_a_third_of_the_lines_broken(tmp_path: Path) -> None:
    good = (DATA / "gdb_sample.smi").read_text().split()
    broken = ("C1CC", "c1cccc1", "C(C)(C)(C)(C)C", "hello world", "C.C", "]", "(((", "N" * 5000)
    lines: list[str] = []
    expected: list[int] = []
    for i, smiles in enumerate(good):
        lines.append(smiles)
        if i % 2 == 0:
            lines.append(broken[(i // 2) % len(broken)])
            expected.append(len(lines))
    path = tmp_path / "broken.smi"
    path.write_text("\n".join(lines))
    molecules, rejected = split(path)
    assert [m.smiles for m in molecules] == [Chem.CanonSmiles(smiles) for smiles in good]
    assert [r.line for r in rejected] == expected
    assert all(r.reason and len(r.text) <= 200 for r in rejected)


def test_csv_columns() -> None:
    molecules, rejected = split(DATA / "qm9_sample.csv")
    assert not rejected
    assert [m.line for m in molecules] == list(range(2, 15))
    assert molecules[0].smiles == "C"
    assert molecules[0].source_id == "dsgdb9nsd_000001"


def test_csv_lines_with_quoted_newlines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'note,mol,ID\n"two\nlines",CCO,a\n\n"it ""is"" so",C,b\nshort\nx,C1CC,d\n"a,O,e\nx,N,f\n'
    )
    molecules, rejected = split(path, smiles_column="mol")
    assert [(m.smiles, m.line, m.source_id) for m in molecules] == [
        ("CCO", 2, "a"),
        ("C", 5, "b"),
        ("N", 9, "f"),
    ]
    assert [(r.line, r.reason) for r in rejected] == [
        (6, "row of 1 cells where the header names 3"),
        (7, "unclosed ring"),
        (8, "a quote is opened and not closed"),
    ]


def test_csv_without_smiles_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,structure\nx,C\n")
    with pytest.raises(InputError, match=r"a\.csv: no column .*'name', 'structure'"):
        next(read_molecules(path))
    with pytest.raises(InputError, match="no column 'mol'"):
        next(read_molecules(path, smiles_column="mol"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.smi: no such file"):
        read_molecules(tmp_path / "none.smi")
    with pytest.raises(InputError, match=r"use \.smi, \.csv, \.sdf, \.xyz"):
        read_molecules(tmp_path / "a.pdb")
    with pytest.raises(InputError, match="unknown kind of file"):
        read_molecules(tmp_path / "a.gz")
    (tmp_path / "folder.smi").mkdir()
    with pytest.raises(InputError, match=r"folder\.smi: can't be opened"):
        read_molecules(tmp_path / "folder.smi")
    for name, text in [
        ("a.smi", "# nothing\n\n"),
        ("a.csv", "smiles\n"),
        ("a.sdf", ""),
        ("a.xyz", "\n"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="holds no record"):
            list(read_molecules(tmp_path / name))


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_bytes(b"C\nCC\nCO \xe9thanol\n")
    records = read_molecules(path)
    assert [record.line for record in itertools.islice(records, 2)] == [1, 2]
    with pytest.raises(InputError, match=r"a\.smi, line 3: not UTF-8"):
        next(records)


def test_damaged_gzip_names_the_line(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(["CCO"] * 50).encode())
    path = tmp_path / "cut.smi.gz"
    path.write_bytes(packed[:-9])
    with pytest.raises(InputError, match=r"cut\.smi\.gz, line \d+: can't be read"):
        list(read_molecules(path))
    path.write_bytes(b"CCO\n")
    with pytest.raises(InputError, match="line 1: can't be read"):
        list(read_molecules(path))


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_bytes(b"C" * 2_000_000)
    with pytest.raises(InputError, match="line 1: longer than"):
        list(read_molecules(path))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.smi"
    path.write_text("".join(f"# {i}\n" * 199 + "C1CC\n" for i in range(1000)))  # 200,000 lines
    tracemalloc.start()
    try:
        records = read_molecules(path)
        assert next(records).line == 200
        count = 1 + sum(1 for _ in records)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1000
    assert peak < 500_000  # bytes; the file has 1.3 MB


def test_only_the_records_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.smi"
    # The damage in the last line would raise if it were reached.
    path.write_bytes(b"CC\n" * 200_000 + b"\xff\n")
    records = list(itertools.islice(read_molecules(path), 3))
    assert [record.line for record in records] == [1, 2, 3]
