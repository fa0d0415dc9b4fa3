"""Formulas as SVG: well-formed, small, and following the page's colours."""

from xml.etree import ElementTree

import pytest

from qmgen.errors import MoleculeParseError
from qmgen.molecules import depict


def test_svg_is_well_formed_and_follows_the_text_colour() -> None:
    text = depict("CC(=O)Nc1ccc(O)cc1", 240, 160)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("viewBox")) == ("240", "0 0 240 160")
    # Eleven bonds (five of them double or aromatic) and the letters of N, H, O and O.
    assert len(root) > 12
    assert "currentColor" in text
    assert "#000000" not in text
    assert len(text) < 8000


def test_heteroatoms_have_their_own_colours() -> None:
    colours = {
        element.get("fill")
        for element in ElementTree.fromstring(depict("NCCO"))
        if len(element) == 0
    }
    assert len(colours - {None, "none", "currentColor"}) >= 2


def test_bad_smiles_is_an_error() -> None:
    with pytest.raises(MoleculeParseError, match="script"):
        depict("<script>")
