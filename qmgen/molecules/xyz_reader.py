"""Geometries in xyz and extended xyz files."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from qmgen.molecules.geometry import geometry_problem, perceive_smiles
from qmgen.molecules.lines import Line, LineReader
from qmgen.molecules.molecule import Molecule, RejectedRecord, count_unpaired
from qmgen.molecules.xyz_comment import FrameHeader, parse_comment

# No engine labels more, and a broken count must not fill the memory.
_MAX_ATOMS = 10_000


class _Atom(NamedTuple):
    number: int
    position_angstrom: list[float]


class _Problem(NamedTuple):
    text: str
    reason: str


def read_xyz(lines: LineReader) -> Iterator[Molecule | RejectedRecord]:
    """Read the frames of an xyz file, coordinates in Angstrom.

    A frame is the number of atoms, a comment and one line an atom; blank lines may separate
    frames. `parse_comment` says what the comment can state. After a broken frame reading goes on
    at the next line that holds a lone integer two lines above an atom.
    """
    elements = _element_numbers()
    while (line := lines.next()) is not None:
        if line.text.strip():
            yield _read_frame(line, lines, elements)


def _element_numbers() -> dict[str, int]:
    # RDKit's own look-up by symbol logs a call stack for an unknown one.
    table = Chem.GetPeriodicTable()
    numbers = {table.GetElementSymbol(number): number for number in range(1, 119)}
    return numbers | {"D": 1, "T": 1}


def _read_frame(
    first: Line, lines: LineReader, elements: Mapping[str, int]
) -> Molecule | RejectedRecord:
    count_text = first.text.strip()
    if not _is_count(first):
        _resynchronise(lines, elements)
        reason = "expected the number of atoms of an xyz frame"
        return RejectedRecord(first.number, count_text, reason)
    if not 0 < int(count_text) <= _MAX_ATOMS:
        _resynchronise(lines, elements)
        empty = not count_text.strip("0")
        reason = "empty molecule" if empty else f"more than {_MAX_ATOMS} atoms"
        return RejectedRecord(first.number, count_text, reason)
    comment = lines.next()
    if comment is None:
        return RejectedRecord(first.number, count_text, "the file ends within the frame")
    header = parse_comment(comment.text)
    atoms = _read_atoms(int(count_text), header, lines, elements)
    if isinstance(atoms, _Problem):
        _resynchronise(lines, elements)
        return RejectedRecord(first.number, atoms.text, atoms.reason, header.source_id)
    return _build(first.number, comment.text, header, atoms)


def _read_atoms(
    natom: int, header: FrameHeader, lines: LineReader, elements: Mapping[str, int]
) -> list[_Atom] | _Problem:
    atoms: list[_Atom] = []
    for i in range(natom):
        line = lines.next()
        if line is None:
            return _Problem("", f"the file ends after {i} of {natom} atoms")
        atom = _parse_atom(line, header, elements)
        if isinstance(atom, str):
            # This line may be the next frame's first one.
            lines.push_back([line])
            return _Problem(line.text, f"line {line.number}, atom {i + 1} of {natom}: {atom}")
        atoms.append(atom)
    following = lines.next()
    if following is not None:
        lines.push_back([following])
        if isinstance(_parse_atom(following, header, elements), _Atom):
            return _Problem(
                following.text, f"line {following.number}: more atoms than the {natom} announced"
            )
    return atoms


def _parse_atom(line: Line, header: FrameHeader, elements: Mapping[str, int]) -> _Atom | str:
    """Read an atom line, or say why it is none."""
    tokens = line.text.split()
    if len(tokens) <= max(header.species_column, header.position_column + 2):
        return "expected an element and three coordinates"
    symbol = tokens[header.species_column]
    number = int(symbol) if symbol.isascii() and symbol.isdigit() else 0
    number = number or elements.get(symbol.capitalize(), 0)
    if not 0 < number < 119:
        return f"unknown element {symbol[:20]!r}"
    coordinates = tokens[header.position_column : header.position_column + 3]
    try:
        return _Atom(number, [float(token) for token in coordinates])
    except ValueError:
        return f"coordinates {' '.join(coordinates)[:80]!r} are no three numbers"


def _is_count(line: Line) -> bool:
    text = line.text.strip()
    # Python refuses to convert integers of thousands of digits.
    return text.isascii() and text.isdigit() and len(text) < 20


def _resynchronise(lines: LineReader, elements: Mapping[str, int]) -> None:
    """Skip to the next plausible start of a frame, or to the end of the file."""
    while (line := lines.next()) is not None:
        if not _is_count(line):
            continue
        ahead = [found for found in (lines.next(), lines.next()) if found is not None]
        lines.push_back(ahead)
        if len(ahead) == 2:
            header = parse_comment(ahead[0].text)
            if isinstance(_parse_atom(ahead[1], header, elements), _Atom):
                lines.push_back([line])
                return


def _build(
    line: int, comment: str, header: FrameHeader, atoms: list[_Atom]
) -> Molecule | RejectedRecord:
    numbers = np.array([atom.number for atom in atoms], dtype=np.int64)
    positions = np.array([atom.position_angstrom for atom in atoms], dtype=np.float64)
    nelectron = int(numbers.sum()) - header.charge
    spin = count_unpaired(nelectron, 0) if header.spin is None else header.spin
    problem = header.problem or geometry_problem(positions)
    if not problem and (spin > nelectron or (nelectron - spin) % 2):
        problem = f"spin (2S) {spin} is impossible with {nelectron} electrons"
    if problem:
        return RejectedRecord(line, comment, problem, header.source_id)
    return Molecule(
        smiles=perceive_smiles(numbers, positions, header.charge, spin),
        atomic_numbers=numbers,
        charge=header.charge,
        spin=spin,
        line=line,
        source_id=header.source_id,
        positions_angstrom=positions,
    )
