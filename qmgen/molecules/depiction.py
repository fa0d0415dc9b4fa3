"""Structural formulas as SVG, and as pixels for networks."""

import re
from typing import Any

import numpy as np
from jaxtyping import UInt8

from qmgen.errors import InputError
from qmgen.molecules.rdkit_log import captured_errors
from qmgen.molecules.smiles import require_smiles

# Of middle lightness, so that heteroatoms stand out on a light and on a dark page.
_PALETTE = {
    1: (0.45, 0.5, 0.55),
    5: (0.85, 0.5, 0.45),
    7: (0.25, 0.5, 0.95),
    8: (0.9, 0.25, 0.25),
    9: (0.15, 0.6, 0.35),
    14: (0.7, 0.55, 0.3),
    15: (0.85, 0.5, 0.1),
    16: (0.7, 0.55, 0.05),
    17: (0.15, 0.6, 0.35),
    35: (0.65, 0.35, 0.25),
    53: (0.6, 0.3, 0.75),
}
_OVERSAMPLING = 4
_NUMBER = re.compile(r"-?\d+\.\d+")
# Of no use in a page, or what SVG has anyway.
_SUPERFLUOUS = re.compile(
    r" class='[^']*'|fill-rule:evenodd;|;stroke-linecap:butt|;stroke-linejoin:miter"
    r"|;stroke-miterlimit:10|;stroke-opacity:1|\n"
)


def depict(smiles: str, width: int = 200, height: int = 150) -> str:
    """Draw a structural formula as an SVG element with a transparent background.

    Carbon and bonds have the colour ``currentColor``, so they follow the page's text when the
    element is part of it.

    Parameters
    ----------
    smiles : str
        Molecule.
    width, height : int
        Size, pixels.

    Returns
    -------
    str
        ``<svg ...>...</svg>``; nothing of `smiles` is in it as text.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse it.
    """
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = require_smiles(smiles)
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.padding = 0.08
    options.fixedBondLength = 28
    options.setAtomPalette({-1: (0.0, 0.0, 0.0), 6: (0.0, 0.0, 0.0), **_PALETTE})
    with captured_errors():
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    body = text[text.index("<!-- END OF HEADER -->") + len("<!-- END OF HEADER -->") :]
    # Pages with many stay small: a tenth of a pixel is fine enough.
    body = _SUPERFLUOUS.sub("", body)
    body = _NUMBER.sub(lambda match: f"{float(match[0]):.1f}", body)
    body = body.replace("#000000", "currentColor")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{body}'
    )


def depicted_pixels(smiles: str, size: int = 48) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Draw a structural formula as a square of pixels on white, for networks that take images.

    Bonds of other elements than carbon have their colour in place of a letter, which so few pixels
    couldn't show. Bonds are a quarter of the square long, or less if the molecule needs it. Each
    pixel is the mean of four by four that RDKit draws.

    Parameters
    ----------
    smiles : str
        Molecule.
    size : int
        Height and width, pixels.

    Returns
    -------
    array
        Red, green and blue of each pixel, from 0 to 255.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse it.
    InputError
        Fewer than 8 pixels.
    """
    from rdkit.Chem.Draw import MolToImage, rdMolDraw2D

    if size < 8:
        raise InputError(f"a depiction of {size} pixels; give it 8 or more")
    mol = require_smiles(smiles)
    options: Any = rdMolDraw2D.MolDrawOptions()
    options.noAtomLabels = True
    options.padding = 0.04
    # A bond is 1.5 of RDKit's units of length.
    options.fixedBondLength = _OVERSAMPLING * size / 4 / 1.5
    options.scaleBondWidth = False
    options.bondLineWidth = _OVERSAMPLING
    options.multipleBondOffset = 0.25
    side = _OVERSAMPLING * size
    with captured_errors():
        image = MolToImage(mol, (side, side), options=options)
    pixels = np.asarray(image.convert("RGB"), np.float64)
    cells = pixels.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3)
    return cells.mean((1, 3)).round().astype(np.uint8)
