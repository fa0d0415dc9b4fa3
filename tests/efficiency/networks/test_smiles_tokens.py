"""Symbols and numbers of SMILES strings, among them what RDKit writes of many molecules."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from qmgen.efficiency.networks.smiles_tokens import (
    BEGIN,
    END,
    MASK,
    PAD,
    SPECIAL,
    Vocabulary,
    split_smiles,
    vocabulary_of,
)
from qmgen.errors import InputError

# Stereo centres and bonds, charges, isotopes, hydrogens, aromatic atoms in and out of brackets,
# more than nine rings, a dative bond, several parts.
HARD = (
    "C[C@H](N)C(=O)[O-]",
    "F/C=C\\F",
    "[13CH4]",
    "c1cc[nH]c1",
    "c1cc[se]c1",
    "BrCCCl",
    "[Na+].[Cl-]",
    "CC(C)(C)c1ccc2occ(CC(=O)Nc3ccccc3F)c2c1",
    "N#N",
    "C1CC2CC3CC4CC5CC6CC7CC8CC9CC%10CC1CC2CC3CC4CC5CC6CC7CC8CC9CC%10",
    "[NH3]->[Cu]",
    "*CC*",
)


@pytest.fixture(scope="module")
def molecules() -> list[str]:
    lines = (
        Path(__file__).parents[3].joinpath("workflows/data/scaling.smi").read_text().splitlines()
    )
    return [line.split()[0] for line in lines]


@pytest.mark.parametrize("smiles", HARD)
@pytest.mark.parametrize("style", ["as it is", "canonical", "explicit", "kekulised"])
def test_round_trip_of_what_rdkit_writes(smiles: str, style: str) -> None:
    if style != "as it is":
        molecule = Chem.MolFromSmiles(smiles)
        if style == "kekulised":
            Chem.Kekulize(molecule, clearAromaticFlags=True)
        smiles = Chem.MolToSmiles(
            molecule, allBondsExplicit=style == "explicit", allHsExplicit=style == "explicit"
        )
    assert "".join(split_smiles(smiles)) == smiles
    vocabulary = vocabulary_of([smiles])
    assert vocabulary.strings(vocabulary.batch([smiles])[0]) == [smiles]


def test_symbols_of_a_string() -> None:
    expected = ["Cl", "C", "[C@@H]", "%12", "(", "=", "O", ")", "c", "1", "%(123)", "Br"]
    assert split_smiles("".join(expected)) == expected


@pytest.mark.parametrize("smiles", HARD)
def test_one_symbol_an_atom(smiles: str) -> None:
    """RDKit counts as many atoms as there are symbols that are atoms."""
    atoms = [s for s in split_smiles(smiles) if s[0] in "[*" or s[0].isalpha()]
    assert len(atoms) == Chem.MolFromSmiles(smiles).GetNumAtoms()


def test_batches_of_many_molecules(molecules: list[str]) -> None:
    vocabulary = vocabulary_of(molecules)
    tokens = vocabulary.batch(molecules, 24)
    assert tokens.shape == (len(molecules), 24)
    assert (tokens[:, 0] == BEGIN).all()
    ends = (tokens == END).argmax(1)
    for row, end, smiles in zip(tokens, ends, molecules, strict=True):
        assert (row[end + 1 :] == PAD).all()
        assert (row[1:end] >= len(SPECIAL)).all()
        assert vocabulary.strings(row) == [smiles]
    assert tokens.max() == len(vocabulary) - 1
    assert vocabulary.batch(molecules).shape[1] == ends.max() + 1


def test_packed_rows(molecules: list[str]) -> None:
    vocabulary = vocabulary_of(molecules)
    rows = vocabulary.packed(molecules, 64)
    assert (rows[:, 0] == BEGIN).all()
    assert not (rows == PAD).any()
    # Whole strings are in their order, and at most one a row is cut.
    at = 0
    for row in rows:
        strings = vocabulary.strings(row)
        assert molecules.index(strings[0], at) - at in (0, 1)
        at = molecules.index(strings[0], at)
        assert strings == molecules[at : at + len(strings)]
        at += len(strings)
    assert at > 0.9 * len(molecules)
    assert vocabulary.packed(["C"], 64).shape == (0, 64)


@pytest.mark.parametrize(
    ("smiles", "place"), [("CXC", "'X' at place 1"), ("C[NH", "'\\[' at place 1"), ("CC C", "' '")]
)
def test_what_is_no_smiles(smiles: str, place: str) -> None:
    with pytest.raises(InputError, match=place):
        split_smiles(smiles)


def test_bad_input() -> None:
    vocabulary = vocabulary_of(["CCO"])
    with pytest.raises(InputError, match="no 'N'"):
        vocabulary.batch(["CN"])
    with pytest.raises(InputError, match="takes 5 tokens and a row has 4"):
        vocabulary.batch(["CCO"], 4)
    with pytest.raises(InputError, match="at least one"):
        vocabulary.batch([])
    with pytest.raises(InputError, match="longer"):
        vocabulary.packed(["CCO"], 1)
    for number in (MASK, len(vocabulary), -1):
        with pytest.raises(InputError, match=f"{number} is no token"):
            vocabulary.strings(np.array([number], np.int32))
    for symbols in (("C", "C"), ("<pad>",)):
        with pytest.raises(InputError, match="once"):
            Vocabulary(symbols)
