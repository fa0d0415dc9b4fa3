"""Repeats in a file."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qmgen.molecules import Molecule, RejectedRecord, deduplicate, molecule_from_smiles

H2 = Molecule("[H][H]", np.array([1, 1]), 0, 0, 1, "", np.array([[0.0, 0, 0], [0, 0, 0.74]]))


def test_repeats_name_the_first_line() -> None:
    bad = RejectedRecord(2, "C1CC", "unclosed ring")
    records: list[Molecule | RejectedRecord] = [
        molecule_from_smiles("CCO", line=1),
        bad,
        molecule_from_smiles("OCC", line=3, source_id="again"),
        molecule_from_smiles("[CH2-]CO", line=4),
        molecule_from_smiles("C(O)C", line=5),
    ]
    out = list(deduplicate(records))
    assert [out[0], out[1], out[3]] == [records[0], bad, records[3]]
    assert out[2] == RejectedRecord(3, "CCO", "duplicate of line 1", "again")
    assert out[4] == RejectedRecord(5, "CCO", "duplicate of line 1")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"positions_angstrom": np.array([[0.0, 0, -0.0], [0, 0, 0.74001]])}, True),
        ({"smiles": ""}, True),
        ({"positions_angstrom": np.array([[0.0, 0, 0], [0, 0, 0.741]])}, False),
        ({"charge": 1, "spin": 1}, False),
        ({"spin": 2}, False),
        ({"atomic_numbers": np.array([1, 9])}, False),
        ({"positions_angstrom": None}, False),
    ],
)
def test_geometries_are_compared_to_a_tenth_of_a_milliangstrom(
    change: dict[str, object], same: bool
) -> None:
    second = list(deduplicate([H2, replace(H2, line=9, **change)]))[1]  # type: ignore[arg-type]
    assert isinstance(second, RejectedRecord) == same


@pytest.mark.parametrize("consume", [3, 10_000])
def test_temporary_table_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, consume: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    molecule = molecule_from_smiles("C")
    stream = deduplicate(replace(molecule, smiles=str(i), line=i) for i in range(5000))
    assert not list(tmp_path.iterdir())
    count = 0
    for record in stream:
        assert isinstance(record, Molecule)
        assert list(tmp_path.iterdir())
        count += 1
        if count == consume:
            break
    stream.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())
    assert count == min(consume, 5000)
