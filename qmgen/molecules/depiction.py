"""Structural formulas as SVG."""

import re
from typing import Any

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
