"""What the comment line of an xyz frame states.

Extended xyz: https://github.com/libAtoms/extxyz
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_KEY_VALUE = re.compile(r"""([A-Za-z_][\w-]*)\s*=\s*("[^"]*"|'[^']*'|\S+)""")


@dataclass(frozen=True)
class FrameHeader:
    """Comment of one frame.

    Parameters
    ----------
    source_id : str
        Value of ``id=`` or ``name=``, else the text before the first ``key=value``.
    charge : int
        Net charge, 0 if not stated.
    spin : int or None
        2S, from ``spin=`` or ``multiplicity=``; None if not stated.
    species_column, position_column : int
        Columns of the element and of x, from ``Properties=``.
    problem : str
        Why the frame can't be used; empty if it can.
    """

    source_id: str
    charge: int
    spin: int | None
    species_column: int
    position_column: int
    problem: str


def parse_comment(comment: str) -> FrameHeader:
    """Read a plain or extended comment.

    ``charge=``, ``spin=`` (2S, not the multiplicity that some collections write under that name)
    or ``multiplicity=`` (2S+1), ``id=`` or ``name=``, and ``Properties=`` are honoured; keys are
    not case-sensitive. A periodic cell is a problem, since a molecule cut from it would be
    labelled as isolated.
    """
    matches = list(_KEY_VALUE.finditer(comment))
    values = {match[1].lower(): match[2].strip("\"'") for match in matches}
    free_text = (comment[: matches[0].start()] if matches else comment).strip()
    problems: list[str] = []
    charge = _integer(values, "charge", problems)
    spin = _integer(values, "spin", problems)
    multiplicity = _integer(values, "multiplicity", problems)
    if multiplicity is not None:
        if spin is not None and spin != multiplicity - 1:
            problems.append(f"spin (2S) {spin} contradicts multiplicity {multiplicity}")
        spin = multiplicity - 1
    if spin is not None and spin < 0:
        problems.append(f"spin (2S) {spin} is negative")
    if "lattice" in values and "T" in values.get("pbc", "T T T").upper():
        problems.append("periodic cell; only isolated molecules can be labelled")
    species_column, position_column = _columns(values.get("properties"), problems)
    return FrameHeader(
        source_id=values.get("id", values.get("name", free_text)),
        charge=charge or 0,
        spin=spin,
        species_column=species_column,
        position_column=position_column,
        problem="; ".join(problems),
    )


def _integer(values: Mapping[str, str], key: str, problems: list[str]) -> int | None:
    if key not in values:
        return None
    if re.fullmatch(r"[+-]?\d{1,6}(\.0*)?", values[key]) is None:
        problems.append(f"{key}={values[key][:40]} is no integer")
        return None
    return int(float(values[key]))


def _columns(properties: str | None, problems: list[str]) -> tuple[int, int]:
    """Find element and x in ``name:type:width:...``; the plain order is element, x, y, z."""
    if properties is None:
        return 0, 1
    parts = properties.split(":")
    starts: dict[str, int] = {}
    column = 0
    for name, width in zip(parts[::3], parts[2::3], strict=False):
        starts[name.lower()] = column
        column += int(width) if re.fullmatch(r"\d{1,3}", width) else 1
    species = starts.get("species", starts.get("z"))
    position = starts.get("pos", starts.get("positions"))
    if species is None or position is None:
        problems.append(f"Properties={properties[:60]} names no species and pos")
        return 0, 1
    return species, position
