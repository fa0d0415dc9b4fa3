import pytest
from rdkit import Chem

from qmgen.errors import MoleculeParseError
from qmgen.molecules import constitution, scaffold


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CCO", ""),
        ("Cc1ccccc1", "c1ccccc1"),
        ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", "c1ccccc1"),  # ibuprofen
        ("Cc1ccc(CCc2ccncc2)cc1F", "c1ccc(CCc2ccncc2)cc1"),  # a linker is kept
        ("CC1CC(=O)C1", "O=C1CCC1"),  # and an atom with a double bond to a ring
        ("C[C@H]1CO1", "C1CO1"),
    ],
)
def test_scaffolds(smiles, expected):
    found = scaffold(smiles)
    assert Chem.CanonSmiles(found) == Chem.CanonSmiles(expected)
    assert scaffold(found) == found
    writings = Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(smiles), 5, randomSeed=1)
    assert {scaffold(other) for other in writings} == {found}


def test_constitution_drops_stereochemistry_and_isotopes_only():
    assert constitution("F/C=C/F") == constitution(r"F/C=C\F") == constitution("FC=CF")
    assert constitution("N[C@@H](C)C(=O)O") == constitution("N[C@H](C)C(=O)O")
    assert constitution("[2H]OC") == constitution("CO")
    assert constitution("[CH3:7]O") == constitution("CO")
    assert constitution("CC(=O)C") != constitution("CCC=O")
    assert constitution("[NH3+]CC(=O)[O-]") != constitution("NCC(=O)O")


@pytest.mark.parametrize("function", [scaffold, constitution])
def test_no_molecule(function):
    with pytest.raises(MoleculeParseError, match="C1CC"):
        function("C1CC")
