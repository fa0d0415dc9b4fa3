"""Contracted Gaussian basis of one molecule, as arrays."""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import basis_set_exchange
import numpy as np
from jaxtyping import Float, Int
from pyscf import gto
from pyscf.data.elements import ELEMENTS
from pyscf.lib.exceptions import BasisNotFoundError

from qmgen.dft.basis_file import (
    check_basis_text,
    is_basis_text,
    read_basis_file,
    shells_from_text,
)
from qmgen.errors import (
    InputError,
    MissingElementError,
    UnknownBasisError,
    UnsupportedMoleculeError,
)

# A shell as PySCF writes it: angular momentum, then rows of exponent and coefficients.
PrimitiveShell = list[Any]


@dataclass(frozen=True, eq=False)
class Basis:
    """Gaussian shells on the atoms of one molecule, each pure (spherical) or Cartesian.

    A shell is one contraction: shells that share exponents (general contraction) stand apart
    here. Orbitals are ordered as in PySCF. Primitives are padded with zero coefficients to the
    longest contraction.

    Attributes
    ----------
    atomic_numbers
        Nuclear charges.
    exponents, coefficients
        Of each primitive, 1 / Bohr^2; coefficients are those of normalised orbitals, so that
        a shell's radial part is ``r^l sum_p c_p exp(-a_p r^2)``.
    shell_atom, shell_l
        Atom and angular momentum of each shell.
    orbital_shell, orbital_atom, orbital_polynomial
        Of each orbital: its shell, its atom, and the index of its polynomial among those of
        `qmgen.dft.orbitals.orbital_polynomials`; l^2 + m where no lower degree is Cartesian.
    libcint_atm, libcint_bas, libcint_env
        The same basis as libcint's tables, positions left zero.
    cartesian
        Ascending degrees l, up to the largest one here, whose shells have all (l + 1)(l + 2) / 2
        Cartesian orbitals instead of 2 l + 1 pure ones.
    """

    atomic_numbers: Int[np.ndarray, " nat"]
    exponents: Float[np.ndarray, "nshell nprim"]
    coefficients: Float[np.ndarray, "nshell nprim"]
    shell_atom: Int[np.ndarray, " nshell"]
    shell_l: Int[np.ndarray, " nshell"]
    orbital_shell: Int[np.ndarray, " nao"]
    orbital_atom: Int[np.ndarray, " nao"]
    orbital_polynomial: Int[np.ndarray, " nao"]
    libcint_atm: Int[np.ndarray, "nat 6"]
    libcint_bas: Int[np.ndarray, "nbas 8"]
    libcint_env: Float[np.ndarray, " nenv"]
    cartesian: tuple[int, ...]

    @property
    def nao(self) -> int:
        """Number of atomic orbitals."""
        return len(self.orbital_shell)

    @property
    def max_l(self) -> int:
        """Largest angular momentum."""
        return int(self.shell_l.max())


def shell_size(angular: int, cartesian: tuple[int, ...]) -> int:
    """Number of orbitals of a shell; ``cartesian`` lists the degrees that are Cartesian."""
    return (angular + 1) * (angular + 2) // 2 if angular in cartesian else 2 * angular + 1


def basis_content(basis: str) -> str:
    """What a user's word for a basis stands for: a name as it is, or the text of a file.

    Parameters
    ----------
    basis
        A name, the path of a file in NWChem or Gaussian 94 format, or such a file's text.

    Raises
    ------
    UnknownBasisError
        There is no such name or file.
    InputError
        The file or text is no basis, or the word may mean a basis as well as a file.
    """
    if is_basis_text(basis):
        check_basis_text(basis, "text of the basis")
        return basis
    known = _is_known(basis)
    if known and os.path.isfile(basis):
        # PySCF itself would silently read the file.
        raise InputError(
            f"{basis} is the name of a basis and of a file in {os.getcwd()}: write "
            f"{os.path.join(os.curdir, basis)} for the file, or rename it"
        )
    if not known and (os.path.exists(basis) or _looks_like_path(basis)):
        return read_basis_file(basis)
    check_basis_name(basis)
    return basis


def _looks_like_path(basis: str) -> bool:
    return os.sep in basis or basis.lower().endswith((".nw", ".gbs", ".dat", ".txt", ".bas"))


def check_basis_name(name: str) -> None:
    """Raise `UnknownBasisError` unless PySCF or the Basis Set Exchange knows the basis."""
    if _is_known(name):
        return
    known = basis_set_exchange.get_all_basis_names()
    family = name.lower().split("-")[0].strip("*+")
    near = [k for k in known if family in k.lower()][:6]
    hint = f" Names like it: {', '.join(near)}." if near else ""
    raise UnknownBasisError(
        f"unknown basis {name!r}: give a name that PySCF or the Basis Set Exchange knows, such as "
        f"sto-3g, 6-31g*, def2-svp, or the path of a file.{hint}"
    )


def _is_known(name: str) -> bool:
    known = basis_set_exchange.get_all_basis_names()
    return pyscf_knows(name) or name.lower() in (k.lower() for k in known)


def pyscf_knows(name: str) -> bool:
    """Whether a basis' numbers are taken from PySCF's tables."""
    return gto.basis._format_basis_name(name) in gto.basis.ALIAS


@lru_cache(maxsize=512)
def element_shells(name: str, atomic_number: int) -> tuple[PrimitiveShell, ...]:
    """Shells of one element, in PySCF's form; ``name`` may be a basis' text as well.

    Raises
    ------
    UnknownBasisError
        No such basis.
    MissingElementError
        The basis has no functions for the element.
    UnsupportedMoleculeError
        The basis leaves the element's core to an effective potential.
    """
    if is_basis_text(name):
        return tuple(shells_from_text(name, atomic_number))
    check_basis_name(name)
    symbol = ELEMENTS[atomic_number]
    missing = MissingElementError(
        f"basis {name} has no functions for {symbol}: choose a basis that covers {symbol}, or "
        "leave such molecules out"
    )
    try:
        if pyscf_knows(name):
            shells = gto.basis.load(name, symbol)
        else:
            text = basis_set_exchange.get_basis(
                name, elements=[atomic_number], fmt="nwchem", header=False
            )
            shells = gto.basis.parse(text, symbol)
    except (BasisNotFoundError, KeyError) as error:
        raise missing from error
    if not shells:
        raise missing
    if _core_is_effective(name, atomic_number):
        raise UnsupportedMoleculeError(
            f"basis {name} needs an effective core potential for {symbol}, which the engine "
            "does not have: choose an all-electron basis"
        )
    return tuple(shells)


def _core_is_effective(name: str, atomic_number: int) -> bool:
    try:
        data = basis_set_exchange.get_basis(name, elements=[atomic_number])
    except KeyError:
        # A name that only PySCF knows.
        try:
            return bool(gto.basis.load_ecp(name, ELEMENTS[atomic_number]))
        except (BasisNotFoundError, KeyError):
            return False
    return "ecp_electrons" in data["elements"][str(atomic_number)]


def build_basis(
    atomic_numbers: Int[np.ndarray, " nat"], name: str, cartesian: tuple[int, ...] = ()
) -> Basis:
    """Basis of a molecule.

    Parameters
    ----------
    atomic_numbers
        Nuclear charges; orbitals follow the order of the atoms.
    name
        A basis known to PySCF or the Basis Set Exchange, or the text of a basis file.
    cartesian
        Degrees l whose shells are Cartesian; all others are pure.

    Raises
    ------
    UnknownBasisError, MissingElementError, UnsupportedMoleculeError
        As `element_shells`.
    """
    shells = {int(z): list(element_shells(name, int(z))) for z in np.unique(atomic_numbers)}
    return basis_from_shells(atomic_numbers, shells, cartesian)


def basis_from_shells(
    atomic_numbers: Int[np.ndarray, " nat"],
    shells: dict[int, list[PrimitiveShell]],
    cartesian: tuple[int, ...] = (),
) -> Basis:
    """Basis of a molecule from the shells of each element, in PySCF's form."""
    atoms = [(ELEMENTS[z], (0.0, 0.0, 0.0)) for z in atomic_numbers]
    by_symbol = {ELEMENTS[z]: s for z, s in shells.items()}
    # libcint reads its own settings (origin, range separation) from the head of the table.
    atm, bas, env = gto.Mole().make_env(atoms, by_symbol, np.zeros(gto.PTR_ENV_START))

    exponents: list[np.ndarray] = []
    coefficients: list[np.ndarray] = []
    shell_atom: list[int] = []
    shell_l: list[int] = []
    orbital_shell: list[int] = []
    orbital_polynomial: list[int] = []
    largest = max(row[gto.ANG_OF] for row in bas)
    sizes = [shell_size(angular, cartesian) for angular in range(largest + 1)]
    first_polynomial = np.cumsum([0, *sizes])
    for row in bas:
        angular, nprim, ncontraction = row[gto.ANG_OF], row[gto.NPRIM_OF], row[gto.NCTR_OF]
        alpha = env[row[gto.PTR_EXP] :][:nprim]
        c = env[row[gto.PTR_COEFF] :][: nprim * ncontraction].reshape(ncontraction, nprim)
        for contraction in c:
            orbital_shell += [len(exponents)] * sizes[angular]
            orbital_polynomial += range(first_polynomial[angular], first_polynomial[angular + 1])
            exponents.append(alpha)
            coefficients.append(contraction)
            shell_atom.append(row[gto.ATOM_OF])
            shell_l.append(angular)
    nprim = max(len(a) for a in exponents)
    orbital_shells = np.array(orbital_shell, np.int32)
    atom_of_shell = np.array(shell_atom, np.int32)
    return Basis(
        atomic_numbers=np.asarray(atomic_numbers, np.int32),
        # A padded primitive has coefficient 0; its exponent only has to be harmless.
        exponents=np.stack([np.pad(a, (0, nprim - len(a)), constant_values=1) for a in exponents]),
        coefficients=np.stack([np.pad(c, (0, nprim - len(c))) for c in coefficients]),
        shell_atom=atom_of_shell,
        shell_l=np.array(shell_l, np.int32),
        orbital_shell=orbital_shells,
        orbital_atom=atom_of_shell[orbital_shells],
        orbital_polynomial=np.array(orbital_polynomial, np.int32),
        libcint_atm=atm,
        libcint_bas=bas,
        libcint_env=env,
        cartesian=tuple(sorted(angular for angular in set(cartesian) if angular <= largest)),
    )
