"""Geometries from xyz and SDF files."""

import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from qmgen.molecules import (
    ConformerConfig,
    Molecule,
    RejectedRecord,
    embed_conformers,
    read_molecules,
)

DATA = Path(__file__).parents[1] / "data" / "molecules"
WATER = "O 0.0 0.0 0.0\nH 0.96 0.0 0.0\nH -0.24 0.93 0.0\n"


def read(path: Path, text: str) -> list[Molecule | RejectedRecord]:
    path.write_text(text)
    return list(read_molecules(path))


def one(path: Path, text: str) -> Molecule:
    (record,) = read(path, text)
    assert isinstance(record, Molecule)
    return record


def rejected(path: Path, text: str) -> RejectedRecord:
    (record,) = read(path, text)
    assert isinstance(record, RejectedRecord)
    return record


def flat(smiles: str) -> str:
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


def test_qm9_geometries_pass_exactly() -> None:
    text = (DATA / "qm9_sample.xyz").read_text().splitlines()
    table = {m.source_id: m for m in read_molecules(DATA / "qm9_sample.csv")}
    molecules = list(read_molecules(DATA / "qm9_sample.xyz"))
    assert len(molecules) == len(table)
    for molecule in molecules:
        assert isinstance(molecule, Molecule)
        start = molecule.line + 1
        atoms = [line.split() for line in text[start : start + int(text[start - 2])]]
        expected = np.array([[float(x) for x in atom[1:4]] for atom in atoms])
        assert molecule.positions_angstrom is not None
        assert molecule.positions_angstrom.tobytes() == expected.tobytes()
        conformers = embed_conformers(molecule, ConformerConfig(relax="mmff94"), 1)
        assert conformers.shape[0] == 1
        assert conformers.tobytes() == expected.tobytes()
        known = table[molecule.source_id]
        assert isinstance(known, Molecule)
        assert sorted(molecule.atomic_numbers) == sorted(known.atomic_numbers)
        # QM9's SMILES states no E/Z, the geometry does; RDKit writes such an imine's hydrogen.
        assert flat(flat(molecule.smiles)) == flat(known.smiles)


def test_extended_xyz_without_id() -> None:
    molecules = list(read_molecules(DATA / "ethanol_md.xyz"))
    assert [m.line for m in molecules] == [1, 12, 23]
    for molecule in molecules:
        assert isinstance(molecule, Molecule)
        assert (molecule.smiles, molecule.source_id) == ("CCO", "")


@pytest.mark.parametrize(
    ("comment", "charge", "spin", "source_id"),
    [
        ("", 0, 0, ""),
        ("my water", 0, 0, "my water"),
        ("w1 energy=-76.4 charge=2", 2, 0, "w1"),
        ("Charge = -1 multiplicity=2", -1, 1, ""),
        ('id="a b" charge=1.0 spin=3', 1, 3, "a b"),
        ("spin=2 multiplicity=3 name=t", 0, 2, "t"),
        ("charge=1", 1, 1, ""),  # nine electrons leave one unpaired
        ('Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F"', 0, 0, ""),
    ],
)
def test_comment_states_charge_and_spin(
    tmp_path: Path, comment: str, charge: int, spin: int, source_id: str
) -> None:
    molecule = one(tmp_path / "a.xyz", f"3\n{comment}\n{WATER}")
    assert (molecule.charge, molecule.spin) == (charge, spin)
    assert molecule.source_id == source_id


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("charge=one", "charge=one is no integer"),
        ("spin=1", "spin (2S) 1 is impossible with 10 electrons"),
        ("spin=0 multiplicity=3", "spin (2S) 0 contradicts multiplicity 3"),
        ("multiplicity=0", "spin (2S) -1 is negative"),
        ("charge=20", "spin (2S) 0 is impossible with -10 electrons"),
        ('Lattice="9 0 0 0 9 0 0 0 9"', "periodic cell; only isolated molecules can be labelled"),
        ("Properties=q:R:1", "Properties=q:R:1 names no species and pos"),
    ],
)
def test_comment_that_contradicts(tmp_path: Path, comment: str, reason: str) -> None:
    assert rejected(tmp_path / "a.xyz", f"3\n{comment}\n{WATER}").reason == reason


def test_columns_follow_properties(tmp_path: Path) -> None:
    text = "2\nProperties=pos:R:3:q:R:1:Z:I:1\n0 0 0 0.1 1\n0 0 0.74 0.1 1\n"
    molecule = one(tmp_path / "a.xyz", text)
    assert molecule.smiles == "[H][H]"
    assert molecule.positions_angstrom is not None
    assert molecule.positions_angstrom[1].tolist() == [0.0, 0.0, 0.74]


@pytest.mark.parametrize(
    ("smiles", "charge", "spin"),
    [("C[NH3+]", 1, 0), ("CC(=O)[O-]", -1, 0), ("C[N+](=O)[O-]", 0, 0), ("C[CH2]", 0, 1)],
)
def test_perceives_ions_and_radicals(tmp_path: Path, smiles: str, charge: int, spin: int) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    text = Chem.MolToXYZBlock(mol).split("\n", 2)
    molecule = one(tmp_path / "a.xyz", f"{text[0]}\ncharge={charge}\n{text[2]}")
    assert molecule.smiles == Chem.CanonSmiles(smiles)
    assert molecule.spin == spin


def test_perception_gives_up_in_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(5) * 1.4] * 3), -1).reshape(-1, 3)
    for natom in (len(grid), 20 * len(grid)):
        shifted = [grid + 7.0 * i for i in range(natom // len(grid))]
        positions = np.concatenate(shifted) + rng.normal(scale=0.01, size=(natom, 3))
        atoms = "".join(f"{'CN'[i % 2]} {x} {y} {z}\n" for i, (x, y, z) in enumerate(positions))
        start = time.monotonic()
        record = read(tmp_path / "a.xyz", f"{natom}\n\n{atoms}")[0]
        assert time.monotonic() - start < 10  # s
        assert isinstance(record, Molecule)
        assert record.smiles == ""
        assert len(record.atomic_numbers) == natom


@pytest.mark.parametrize(
    ("broken", "line", "reason"),
    [
        ("3\n\nO 0 0 0\nH 0 0 x\nH 0 1 0\n", 1, "line 4, atom 2 of 3: coordinates '0 0 x'"),
        ("3\n\nO 0 0 0\nXy 0 0 1\nH 0 1 0\n", 1, "line 4, atom 2 of 3: unknown element 'Xy'"),
        ("4\nshort\n" + WATER, 1, "line 6, atom 4 of 4: expected an element and three"),
        ("2\nlong\n" + WATER, 1, "line 5: more atoms than the 2 announced"),
        ("three\n\n" + WATER, 1, "expected the number of atoms of an xyz frame"),
        ("0\n\n", 1, "empty molecule"),
        ("99999999999\n\n" + WATER, 1, "more than 10000 atoms"),
        (WATER, 1, "expected the number of atoms of an xyz frame"),
        ("2\n\nH 0 0 0\nH 0 0 0.05\n", 1, "atoms 1 and 2 are 0.050 Angstrom apart"),
        ("2\n\nH 0 0 0\nH 0 0 nan\n", 1, "a coordinate is not finite"),
    ],
)
def test_broken_frame_spares_its_neighbours(
    tmp_path: Path, broken: str, line: int, reason: str
) -> None:
    good = f"3\nfirst\n{WATER}"
    last = f"3\n7\n{WATER}"  # a number as comment is no start of a frame
    records = read(tmp_path / "a.xyz", broken + last + "\n" + good)
    assert [type(r) for r in records] == [RejectedRecord, Molecule, Molecule]
    assert isinstance(records[0], RejectedRecord)
    assert records[0].line == line
    assert records[0].reason.startswith(reason)
    assert [r.source_id for r in records[1:]] == ["7", "first"]


def test_file_that_ends_within_a_frame(tmp_path: Path) -> None:
    assert rejected(tmp_path / "a.xyz", "3").reason == "the file ends within the frame"
    reason = rejected(tmp_path / "a.xyz", "3\n\nH 0 0 0\n").reason
    assert reason == "the file ends after 1 of 3 atoms"


def sdf_record(smiles: str, title: str, hydrogens: bool = True, embed: bool = True) -> str:
    mol = Chem.MolFromSmiles(smiles)
    if hydrogens:
        mol = Chem.AddHs(mol)
    if embed:
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    mol.SetProp("_Name", title)
    return Chem.MolToMolBlock(mol) + "> <note>\nM  END\n\n$$$$\n"


def test_sdf_gives_geometry_only_if_complete(tmp_path: Path) -> None:
    text = (
        sdf_record("C[C@H](F)O", "full")
        + sdf_record("CCO", "heavy only", hydrogens=False)
        + sdf_record("CCN", "no coordinates", embed=False)
        + sdf_record("C[NH3+]", "ion")
    )
    records = read(tmp_path / "a.sdf", text)
    lines = text.split("\n")
    for record, smiles, given in zip(
        records, ["C[C@H](F)O", "CCO", "CCN", "C[NH3+]"], [True, False, False, True], strict=True
    ):
        assert isinstance(record, Molecule)
        assert record.smiles == Chem.CanonSmiles(smiles)
        assert lines[record.line - 1] == record.source_id
        assert (record.positions_angstrom is not None) == given
        assert record.charge == smiles.count("+")
    full = records[0]
    assert isinstance(full, Molecule)
    assert full.positions_angstrom is not None
    block = Chem.MolFromMolBlock(text.split("$$$$")[0], removeHs=False)
    assert np.array_equal(full.positions_angstrom, block.GetConformer().GetPositions())


def test_broken_sdf_records(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = sdf_record("CCO", "good")
    valence = good.replace(" O  ", " F  ")
    records = read(
        tmp_path / "a.sdf",
        "".join(
            [
                good,
                good.replace("V2000", "V9000"),
                valence,
                "junk\n$$$$\n",
                good.replace(" O  ", " Zz "),
                good.replace(" O  ", " R# "),
                good.replace("  1  2  1  0", "  1 77  1  0"),
                sdf_record("[Na+].[Cl-]", "salt"),
                good,
                "\n\n",
            ]
        ),
    )
    assert [type(record) for record in records] == [Molecule, *[RejectedRecord] * 7, Molecule]
    reasons = [r.reason for r in records if isinstance(r, RejectedRecord)]
    offset = len(good.splitlines())
    assert records[1].line == offset + 1
    assert reasons[0] == f"Unsupported CTAB version: 'V9000' at line {offset + 4}"
    assert reasons[1] == "Explicit valence for atom # 2 F, 2, is greater than permitted"
    assert reasons[2] == "the mol block ends before its counts line, the fourth"
    assert reasons[3] == "Element 'Zz' not found"
    assert reasons[4].startswith("dummy atom")
    assert reasons[5].startswith("Unexpected error hit on line ")
    assert isinstance(records[6], RejectedRecord)
    assert records[6].text == "  1 77  1  0"
    assert reasons[6].startswith("2 fragments")
    assert capfd.readouterr().err == ""


def test_sdf_with_a_character_cut_in_two(tmp_path: Path) -> None:
    # RDKit quotes three columns of the counts line, the last one half of a letter.
    text = sdf_record("O", "x").replace("  3  2  0", " 3é  2  0")
    assert rejected(tmp_path / "a.sdf", text).reason.startswith("Cannot convert")


def test_sdf_without_separators_is_bounded(tmp_path: Path) -> None:
    record = rejected(tmp_path / "a.sdf", "x\n" * 20_000)
    assert record.reason == "mol block of more than 5000 lines"
