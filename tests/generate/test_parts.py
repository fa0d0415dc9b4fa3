"""Finished batches: bit for bit what was saved, or noticed as damaged."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qmgen.dataset import CONFORMER, Failure, MoleculeRecord, check_record, empty_conformers
from qmgen.errors import StoreError
from qmgen.generate.parts import DamagedPartError, is_complete, load_part, part_path, save_part
from qmgen.generate.worker import LabelledSlice
from tests.generate.runs import file_size_limit

FAILURES = (
    Failure(3, "bénzène", "c1ccccc1", 4, "label", "not converged\nafter 50 cycles"),
    Failure(3, "", "", -1, "embed", 'no "conformer"'),
)


def record(line: int, nconf: int) -> MoleculeRecord:
    rng = np.random.default_rng(line)
    z = np.array([8, 1, 1], np.uint8)
    conformers = empty_conformers(3, 7, nconf)
    for values in conformers.values():
        if values.dtype == np.float64:
            values[...] = rng.normal(size=values.shape)
    conformers["index"][:] = np.arange(nconf) * 2
    conformers["converged"][1:] = True
    for name in ("lumo", "gap"):
        conformers[name][::2] = math.nan
    conformers["energy"][:1] = -math.inf
    conformers["dipole"][:, 0] = -0.0
    made = MoleculeRecord(line, f"wäter {line}", "O", -1, 0, z, 7, conformers)
    check_record(made)
    return made


SLICES = [
    LabelledSlice(5, record(6, 4), FAILURES),
    LabelledSlice(7, record(8, 0), ()),
    LabelledSlice(9, None, FAILURES[1:]),
    LabelledSlice(11, record(12, 1), ()),
]


def assert_same(one: LabelledSlice, other: LabelledSlice) -> None:
    assert replace(one, record=None) == replace(other, record=None)
    assert (one.record is None) == (other.record is None)
    if one.record is not None and other.record is not None:
        for name in ("line", "source_id", "smile", "charge", "spin", "nao"):
            assert getattr(one.record, name) == getattr(other.record, name)
        assert one.record.z.dtype == other.record.z.dtype
        assert np.array_equal(one.record.z, other.record.z)
        assert set(one.record.conformers) == set(other.record.conformers) == set(CONFORMER)
        for name, values in one.record.conformers.items():
            again = other.record.conformers[name]
            assert (values.dtype, values.shape) == (again.dtype, again.shape)
            # Bytes, so that NaN equals NaN and -0 differs from 0.
            assert values.tobytes() == again.tobytes()


@pytest.mark.parametrize("batch", [0, 999, 1000, 123_456_789])
def test_round_trip_is_exact(tmp_path: Path, batch: int) -> None:
    assert not is_complete(tmp_path, batch)
    save_part(tmp_path, batch, SLICES)
    assert is_complete(tmp_path, batch)
    again = load_part(tmp_path, batch)
    assert len(again) == len(SLICES)
    for one, other in zip(SLICES, again, strict=True):
        assert_same(one, other)


def test_a_batch_without_any_outcome(tmp_path: Path) -> None:
    save_part(tmp_path, 0, [])
    assert load_part(tmp_path, 0) == []
    assert is_complete(tmp_path, 0)


def test_batches_lie_apart_and_nothing_else_lies_there(tmp_path: Path) -> None:
    numbers = [*range(0, 5000, 250), 10**8]
    for number in numbers:
        save_part(tmp_path, number, SLICES[number % 4 :])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(part_path(tmp_path, number) for number in numbers)
    for number in numbers:
        assert_same(SLICES[number % 4], load_part(tmp_path, number)[0])


# Of the file's length; 1.0 is the last byte.
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_a_truncated_batch_is_done_again(tmp_path: Path, share: float) -> None:
    save_part(tmp_path, 3, SLICES)
    path = part_path(tmp_path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 1)])
    with pytest.raises(DamagedPartError, match="missing or damaged"):
        load_part(tmp_path, 3)
    assert not is_complete(tmp_path, 3)


def test_a_flipped_bit_among_values_is_noticed(tmp_path: Path) -> None:
    save_part(tmp_path, 3, SLICES)
    path = part_path(tmp_path, 3)
    whole = path.read_bytes()
    assert SLICES[0].record is not None
    values = SLICES[0].record.conformers["orbital_energies"].tobytes()
    first = whole.index(values)
    for place in range(first, first + len(values), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DamagedPartError, match="run the same command again"):
            load_part(tmp_path, 3)
        assert not is_complete(tmp_path, 3)


def test_no_flipped_bit_changes_values_unnoticed(tmp_path: Path) -> None:
    """A bit in every 7th byte; some lie where nothing is read, such as dates."""
    save_part(tmp_path, 3, SLICES)
    path = part_path(tmp_path, 3)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            again = load_part(tmp_path, 3)
        except DamagedPartError:
            noticed += 1
        else:
            for one, other in zip(SLICES, again, strict=True):
                assert_same(one, other)
    assert noticed > len(whole) / 7 / 2


@pytest.mark.parametrize("limit", [0, 100, 4000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    save_part(tmp_path, 0, SLICES)
    with (
        file_size_limit(limit),
        pytest.raises(StoreError, match="finished before it are kept"),
    ):
        save_part(tmp_path, 1, SLICES)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [part_path(tmp_path, 0)]
    assert not is_complete(tmp_path, 1)
    save_part(tmp_path, 1, SLICES)
    assert is_complete(tmp_path, 1)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("not a folder", encoding="utf-8")
    with pytest.raises(StoreError, match="can't write"):
        save_part(tmp_path / "parts", 0, SLICES)
