"""SMILES strings cut into tokens, numbered, and put into arrays.

A token is what OpenSMILES has as one symbol: an atom in brackets, an atom of the organic subset, a
bond, a branch, a ring closure. Schwaller et al., ACS Cent. Sci. 5, 1572 (2019), use the same cut.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32

from qmgen.errors import InputError

# The first numbers of every vocabulary; those of symbols follow.
SPECIAL = ("<pad>", "<begin>", "<end>", "<mask>")
PAD, BEGIN, END, MASK = range(len(SPECIAL))

_SYMBOL = re.compile(
    r"""\[[^\[\]\s]+\]              # atom in brackets, with all that is in them
      | Br | Cl | [BCNOPSFI]        # atoms of the organic subset
      | [bcnops] | \*               # aromatic ones, any atom
      | -> | <-                     # dative bonds, as RDKit writes them
      | [-=\#$:/\\~]                # bonds
      | [()] | \.                   # branches, and parts that hang on nothing
      | %\(\d+\) | %\d\d | \d       # ring closures
    """,
    re.VERBOSE,
)


def split_smiles(smiles: str) -> list[str]:
    """Cut a SMILES string into symbols, which joined give the string again.

    Raises
    ------
    InputError
        Something in the string is no symbol of SMILES.
    """
    symbols, at = [], 0
    while at < len(smiles):
        match = _SYMBOL.match(smiles, at)
        if match is None:
            raise InputError(
                f"{smiles[at]!r} at place {at} of {smiles!r} is no symbol of SMILES; leave the "
                "string out or correct it"
            )
        symbols.append(match.group())
        at = match.end()
    return symbols


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that have numbers, in this order behind `SPECIAL`."""

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.symbols)) < len(self.symbols) or set(self.symbols) & set(SPECIAL):
            raise InputError("a vocabulary has each symbol once, and special ones by itself")

    def __len__(self) -> int:
        """Give the number of tokens, special ones included."""
        return len(SPECIAL) + len(self.symbols)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, len(SPECIAL))}

    def numbers(self, smiles: str) -> list[int]:
        """Numbers of a string's symbols.

        Raises
        ------
        InputError
            The string is no SMILES, or has a symbol that the vocabulary lacks.
        """
        symbols = split_smiles(smiles)
        try:
            return [self._numbers[symbol] for symbol in symbols]
        except KeyError as error:
            raise InputError(
                f"the vocabulary has no {error.args[0]!r}, which {smiles!r} has; make it from all "
                "strings, those held out included"
            ) from None

    def batch(self, strings: Sequence[str], length: int | None = None) -> Int32[np.ndarray, "n l"]:
        """Strings between BEGIN and END, filled with PAD to one length.

        Parameters
        ----------
        length
            Tokens a row; as many as the longest string needs by default.

        Raises
        ------
        InputError
            As `numbers`; a string that is longer; no strings.
        """
        if not strings:
            raise InputError("a batch of no strings; give it at least one")
        rows = [[BEGIN, *self.numbers(smiles), END] for smiles in strings]
        longest = max(map(len, rows))
        length = longest if length is None else length
        if longest > length:
            raise InputError(
                f"a string takes {longest} tokens and a row has {length}; make rows longer, or "
                "leave long strings out"
            )
        tokens = np.full((len(rows), length), PAD, np.int32)
        for row, numbers in zip(tokens, rows, strict=True):
            row[: len(numbers)] = numbers
        return tokens

    def packed(self, strings: Iterable[str], length: int) -> Int32[np.ndarray, "n l"]:
        """Strings in their order, several a row and each with an END, for causal models.

        Rows start with BEGIN and a new string. The one that doesn't end in its row is cut there,
        and what doesn't fill a row is left out.

        Raises
        ------
        InputError
            As `numbers`; rows of fewer than two tokens.
        """
        if length < 2:
            raise InputError(f"rows of {length} tokens have no room for strings; make them longer")
        rows, row = [], [BEGIN]
        for smiles in strings:
            row += [*self.numbers(smiles), END]
            if len(row) >= length:
                rows.append(row[:length])
                row = [BEGIN]
        return np.array(rows, np.int32).reshape(-1, length)

    def strings(self, tokens: Int32[np.ndarray, " l"]) -> list[str]:
        """The strings of one row of either kind, without the one that has no END.

        Raises
        ------
        InputError
            A number that isn't in the vocabulary, or a MASK.
        """
        found, symbols = [], []
        for number in np.asarray(tokens).tolist():
            if number == MASK or not 0 <= number < len(self):
                raise InputError(f"{number} is no token of a string; the last is {len(self) - 1}")
            if number >= len(SPECIAL):
                symbols.append(self.symbols[number - len(SPECIAL)])
            elif number == END:
                found.append("".join(symbols))
            if number < len(SPECIAL):
                symbols = []
        return found


def vocabulary_of(strings: Iterable[str]) -> Vocabulary:
    """All symbols of some strings, in alphabetical order.

    Raises
    ------
    InputError
        A string is no SMILES.
    """
    return Vocabulary(
        tuple(sorted({symbol for smiles in strings for symbol in split_smiles(smiles)}))
    )
