"""SMILES, spin states and the round trip through JSON."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem

from qmgen.errors import InputError, MoleculeParseError
from qmgen.molecules import Molecule, molecule_from_smiles, unsupported_reason


@pytest.mark.parametrize(
    ("smiles", "same"),
    [("OCC", "CCO"), ("C1=CC=CC=C1", "c1ccccc1"), ("[H]C([H])([H])[H]", "C"), ("[CH3:7]C", "CC")],
)
def test_equal_molecules_get_equal_smiles(smiles: str, same: str) -> None:
    assert molecule_from_smiles(smiles).smiles == molecule_from_smiles(same).smiles


@pytest.mark.parametrize(
    "smiles", ["CCO", "N=CO", "[H]/N=C/O", "[2H]OC", "C[C@H](F)O", "[NH4+]", "[H][H]", "[H+]"]
)
def test_atoms_are_those_of_the_reparsed_smiles(smiles: str) -> None:
    molecule = molecule_from_smiles(smiles)
    reparsed = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    assert molecule.atomic_numbers.tolist() == [a.GetAtomicNum() for a in reparsed.GetAtoms()]


def test_stereo_and_isotopes_are_kept() -> None:
    left, right = (molecule_from_smiles(s) for s in ("C[C@H](F)O", "C[C@@H](F)O"))
    assert left.smiles != right.smiles
    assert molecule_from_smiles("[13CH4]").smiles == "[13CH4]"


@pytest.mark.parametrize(
    ("smiles", "charge", "nelectron", "spin"),
    [
        ("O", 0, 10, 0),
        ("[NH4+]", 1, 10, 0),
        ("[OH-]", -1, 10, 0),
        ("C[N+](=O)[O-]", 0, 32, 0),
        ("[CH3]", 0, 9, 1),
        ("[N]=O", 0, 15, 1),
        ("[O][O]", 0, 16, 2),
        ("[CH2]", 0, 8, 2),
        ("[Cu]", 0, 29, 1),  # RDKit counts no radical electron on a metal
    ],
)
def test_charge_and_spin(smiles: str, charge: int, nelectron: int, spin: int) -> None:
    molecule = molecule_from_smiles(smiles)
    assert (molecule.charge, molecule.nelectron, molecule.spin) == (charge, nelectron, spin)
    assert unsupported_reason(molecule) is None


def test_unsupported_reasons() -> None:
    assert unsupported_reason(molecule_from_smiles("[H+]")) == "no electrons"


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "unclosed ring"),
        ("CC(", "syntax error near character 3"),
        ("CC)", "extra close parentheses near character 3"),
        ("c1cccc1", "Can't kekulize mol.  Unkekulized atoms: 0 1 2 3 4"),
        ("C(C)(C)(C)(C)C", "Explicit valence for atom # 0 C, 5, is greater than permitted"),
        ("cc", "non-ring atom 0 marked aromatic"),
        ("", "empty molecule"),
        ("  ", "empty molecule"),
        ("[Na+].[Cl-]", "2 fragments; give one molecule a line"),
        ("C*", "dummy atom at index 1; give a complete molecule"),
        ("C~C", "bond 0 has no definite order; give a complete molecule"),
        ("C\0C", "syntax error near character 2"),
        ("C" * 3000, "SMILES of 3000 characters; the limit is 2000"),
    ],
)
def test_reasons_of_rejection(smiles: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MoleculeParseError) as caught:
        molecule_from_smiles(smiles, line=12)
    assert str(caught.value).endswith(f": {reason}")
    assert str(caught.value).startswith("line 12, SMILES ")
    assert isinstance(caught.value, InputError)
    assert capfd.readouterr().err == ""


def test_rdkits_log_speaks_again_afterwards() -> None:
    """In a process of its own, as other packages change where RDKit's log goes."""
    code = """
from rdkit import Chem
from qmgen.errors import MoleculeParseError
from qmgen.molecules import molecule_from_smiles
try:
    molecule_from_smiles("C1CC")
except MoleculeParseError:
    Chem.MolFromSmiles("C1CCC")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("unclosed ring") == 1
    assert "C1CCC" in done.stderr


@pytest.mark.parametrize("given", [False, True])
def test_json_returns_every_bit(given: bool) -> None:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(3, 3)) * 10.0 ** rng.integers(-300, 300, (3, 3))
    molecule = Molecule("Ö", np.array([8, 1, 1]), -1, 2, 10**10, "ä\n\"'", positions)
    if not given:
        molecule = molecule_from_smiles("CO", line=3, source_id="x")
    text = molecule.to_json()
    for copy in (Molecule.from_json(text), pickle.loads(pickle.dumps(molecule))):
        assert copy.to_json() == text
        assert np.array_equal(copy.atomic_numbers, molecule.atomic_numbers)
        if given:
            assert copy.positions_angstrom is not None
            assert copy.positions_angstrom.tobytes() == positions.tobytes()
        else:
            assert copy.positions_angstrom is None
    assert "\n" not in text
