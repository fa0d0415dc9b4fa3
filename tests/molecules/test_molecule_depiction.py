"""Formulas as SVG, small and following the page's colours, and as pixels."""

from xml.etree import ElementTree

import numpy as np
import pytest

from qmgen.errors import InputError, MoleculeParseError
from qmgen.molecules import depict, depicted_pixels


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


@pytest.mark.parametrize("size", [32, 48])
def test_pixels_of_a_chain(size: int) -> None:
    pixels = depicted_pixels("CCCC", size)
    assert pixels.shape == (size, size, 3)
    dark = pixels.min(-1) < 128
    rows, columns = np.nonzero(dark)
    # Three bonds of a quarter of the square, at 30 degrees to the horizontal, in the middle.
    assert np.ptp(columns) == pytest.approx(3 * size / 4 * np.cos(np.pi / 6), abs=3)
    assert columns.mean() == pytest.approx(size / 2, abs=2)
    assert rows.mean() == pytest.approx(size / 2, abs=2)
    # The background is white, carbon has no colour.
    assert np.mean(pixels == 255) > 0.8
    assert np.ptp(pixels.astype(int), axis=-1).max() <= 1


@pytest.mark.parametrize(("smiles", "strongest"), [("CO", 0), ("CN", 2)])
def test_pixels_have_the_colours_of_elements(smiles: str, strongest: int) -> None:
    pixels = depicted_pixels(smiles).astype(int)
    coloured = pixels[np.ptp(pixels, axis=-1) > 100]
    assert len(coloured)
    assert set(coloured.argmax(-1)) == {strongest}


def test_a_long_molecule_fits_into_the_pixels() -> None:
    dark = depicted_pixels("C" * 20).min(-1) < 128
    assert dark.any()
    assert not dark[:, [0, -1]].any()


def test_bad_pixels_are_an_error() -> None:
    with pytest.raises(MoleculeParseError):
        depicted_pixels("C(")
    with pytest.raises(InputError, match="8 or more"):
        depicted_pixels("C", 4)
