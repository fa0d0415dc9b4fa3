"""Bases that a file gives, in the formats of NWChem and Gaussian 94.

The Basis Set Exchange's readers parse them (Pritchard et al., J. Chem. Inf. Model. 59, 4814,
2019). A basis is kept as its text, so that whoever has the configuration needs no file.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from basis_set_exchange.readers import read_formatted_basis_str
from basis_set_exchange.writers import write_formatted_basis_str
from pyscf import gto
from pyscf.data.elements import ELEMENTS

from qmgen.errors import InputError, MissingElementError, UnsupportedMoleculeError

Format = Literal["nwchem", "gaussian94"]

# i functions. The formats disagree on the letters of what is beyond.
_MAX_ANGULAR_MOMENTUM = 6
_COMMENTS: dict[Format, str] = {"nwchem": "#", "gaussian94": "!"}
# What the Basis Set Exchange raises for text that it can't parse.
_PARSE_ERRORS = (RuntimeError, KeyError, IndexError, ValueError)


def is_basis_text(basis: str) -> bool:
    """Whether a basis is given by its text: names and paths have one line."""
    return "\n" in basis


def basis_title(basis: str) -> str:
    """How messages call a basis: its name, or the digest of its text."""
    if not is_basis_text(basis):
        return basis
    return f"from a file (sha256 {hashlib.sha256(basis.encode()).hexdigest()[:12]})"


def read_basis_file(path: str) -> str:
    """Text of a basis file, checked.

    Raises
    ------
    InputError
        The file can't be read or is no basis; the message names the file and, where one shell is
        at fault, its line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"can't read the basis file {path}: {error.strerror} (looked for "
            f"{os.path.abspath(path)}); give the path of a file in NWChem or Gaussian 94 format, "
            "or the name of a basis"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: no text ({error.reason}); give a basis in NWChem or Gaussian 94 format"
        ) from error
    # One line holds no basis; the end marks it as text.
    text = text.rstrip() + "\n"
    check_basis_text(text, path)
    return text


def check_basis_text(text: str, source: str) -> None:
    """Raise `InputError`, which names the source and the line, unless the text is a basis."""
    kind = _format_of(text)
    expected = "give a basis in NWChem or Gaussian 94 format, numbers with a decimal point"
    try:
        data = _parse(text, kind)
    except _PARSE_ERRORS as error:
        place, reason = _first_bad_shell(text, kind) or ("", _reason(error))
        raise InputError(f"{source}{place}: {reason}; {expected}") from error
    if not data:
        raise InputError(f"{source}: holds no basis; {expected}")


def shells_from_text(text: str, atomic_number: int) -> list[Any]:
    """Shells of one element, in PySCF's form.

    Raises
    ------
    MissingElementError
        The basis has no functions for the element.
    UnsupportedMoleculeError
        The basis leaves the element's core to an effective potential.
    """
    elements = _elements(text)
    symbol = ELEMENTS[atomic_number]
    data = elements.get(str(atomic_number), {})
    if "ecp_potentials" in data:
        raise UnsupportedMoleculeError(
            f"basis {basis_title(text)} needs an effective core potential for {symbol}, which the "
            "engine does not have: choose an all-electron basis"
        )
    if "electron_shells" not in data:
        has = ", ".join(ELEMENTS[int(z)] for z in sorted(elements, key=int))
        raise MissingElementError(
            f"basis {basis_title(text)} has no functions for {symbol}, only for {has}: add some "
            f"to the file, choose a basis that covers {symbol}, or leave such molecules out"
        )
    alone = {"elements": {str(atomic_number): data}, "function_types": ["gto"]}
    return gto.basis.parse(write_formatted_basis_str(alone, "nwchem"), symbol)


@lru_cache(maxsize=8)
def _elements(text: str) -> MappingProxyType[str, Any]:
    return MappingProxyType(_parse(text, _format_of(text)))


def _format_of(text: str) -> Format:
    marked = any(line.strip() == "****" for line in text.splitlines())
    return "gaussian94" if marked else "nwchem"


def _parse(text: str, kind: Format) -> dict[str, Any]:
    """Elements of a basis as the Basis Set Exchange keeps them, by atomic number."""
    lines = [line for line in _lines(text, kind) if line]
    if not lines:
        return {}
    if kind == "nwchem":
        # Files made for PySCF leave the frame out.
        if not any(line.lower().startswith(("basis", "ecp")) for line in lines):
            lines = ["BASIS", *lines]
        if lines[-1].lower() != "end":
            lines = [*lines, "END"]
    else:
        # Gaussian's own files begin with the mark that ends an element.
        while lines[:1] == ["****"]:
            lines = lines[1:]
    if len(lines) < 3:
        return {}
    elements = read_formatted_basis_str("\n".join(lines), kind)["elements"]
    for data in elements.values():
        for shell in data.get("electron_shells", ()):
            _check_shell(shell)
    return elements


def _lines(text: str, kind: Format) -> list[str]:
    """All lines, comments taken out."""
    return [line.split(_COMMENTS[kind])[0].strip() for line in text.splitlines()]


def _check_shell(shell: dict[str, Any]) -> None:
    highest = max(shell["angular_momentum"])
    if highest > _MAX_ANGULAR_MOMENTUM:
        raise ValueError(
            f"angular momentum {highest} is beyond {_MAX_ANGULAR_MOMENTUM} (shared s and p shells "
            "are called SP)"
        )
    for exponent in shell["exponents"]:
        if not 0 < float(exponent) < math.inf:
            raise ValueError(f"exponent {exponent} is not positive")
    for column in shell["coefficients"]:
        if not any(float(c) for c in column):
            raise ValueError("all coefficients of a contraction are zero")


def _first_bad_shell(text: str, kind: Format) -> tuple[str, str] | None:
    """Place and reason of the first shell that can't be parsed on its own."""
    for number, part in _shells(text, kind):
        try:
            _parse(part, kind)
        except _PARSE_ERRORS as error:
            return f", line {number}", _reason(error)
    return None


def _shells(text: str, kind: Format) -> Iterator[tuple[int, str]]:
    """First line of each shell, and a text that holds that shell alone."""
    lines = _lines(text, kind)
    starts = [n for n, line in enumerate(lines) if line[:1].isalpha() or line[:1] == "*"]
    element = ""
    for start, stop in pairwise([*starts, len(lines)]):
        words = lines[start].lower().split()
        if kind == "nwchem":
            if words[0] == "ecp":
                return
            if words[0] not in ("basis", "end"):
                yield start + 1, "\n".join(["BASIS", *lines[start:stop], "END"])
        elif words[0] == "****":
            element = ""
        elif not element:
            element = lines[start]
        else:
            yield start + 1, "\n".join([element, *lines[start:stop], "****"])


def _reason(error: Exception) -> str:
    # The text of a KeyError comes quoted.
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.split(". Regex is")[0].rstrip(".")
