"""Density fitting: two-electron integrals through an auxiliary basis.

Products of orbitals are fitted by functions P of an auxiliary basis so that the Coulomb energy of
the residual is least, which gives (ij|kl) ~ sum_PQ (ij|P) (P|Q)^-1 (Q|kl) (Whitten, J. Chem. Phys.
58, 4496, 1973; Dunlap, Connolly and Sabin, J. Chem. Phys. 71, 3396, 1979). With the Cholesky factor
of the metric, (P|Q) = L L^T, factors are B = L^-1 (P|ij). An approximation: total energies change
by 1e-5 to 1e-4 Ha an atom, most of which cancels between conformers.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from pyscf import df, gto
from pyscf.data.elements import ELEMENTS

from qmgen.dft.basis import Basis, PrimitiveShell, basis_from_shells, element_shells
from qmgen.dft.basis_file import is_basis_text
from qmgen.dft.cartesian import libcint_kind, mixes_kinds, pair_transformation
from qmgen.dft.factorised import stack_factors
from qmgen.dft.integrals import (
    IntegralEngine,
    Integrals,
    Positions,
    environment,
    libcint_one_electron_integrals,
)

# Eigenvalues of a metric that has no Cholesky factor count as zero below this, as in PySCF.
_LINEAR_DEPENDENCE = 1e-9


def auxiliary_basis(
    atomic_numbers: Int[np.ndarray, " nat"], orbital_basis: str, name: str | None, kind: str
) -> Basis:
    """Auxiliary basis of a molecule.

    Parameters
    ----------
    atomic_numbers
        Nuclear charges.
    orbital_basis
        Name or text of the basis whose products are to be fitted.
    name
        Of the auxiliary basis, or its text. By default PySCF's choice for Coulomb and exchange:
        the one made for the orbital basis (Weigend 2002, 2008) where there is one, else
        even-tempered functions.
    kind
        ``sph`` for pure shells or ``cart`` for Cartesian ones, as the orbital basis has them in
        libcint.

    Raises
    ------
    UnknownBasisError, MissingElementError, UnsupportedMoleculeError
        As `qmgen.dft.basis.build_basis`.
    """
    shells = auxiliary_shells(atomic_numbers, orbital_basis, name)
    # Up to i functions, the largest that libcint has.
    cartesian = tuple(range(2, 7)) if kind == "cart" else ()
    return basis_from_shells(atomic_numbers, shells, cartesian)


def auxiliary_shells(
    atomic_numbers: Int[np.ndarray, " nat"], orbital_basis: str, name: str | None
) -> dict[int, list[PrimitiveShell]]:
    """Shells of each element's auxiliary basis, in PySCF's form; see `auxiliary_basis`."""
    return {
        int(z): list(
            _default_shells(int(z), orbital_basis) if name is None else element_shells(name, int(z))
        )
        for z in np.unique(atomic_numbers)
    }


@lru_cache(maxsize=512)
def _default_shells(atomic_number: int, orbital_basis: str) -> tuple[PrimitiveShell, ...]:
    symbol = ELEMENTS[atomic_number]
    atom = gto.M(
        atom=[(symbol, (0.0, 0.0, 0.0))],
        basis={symbol: list(element_shells(orbital_basis, atomic_number))},
        spin=None,
        verbose=0,
    )
    if not is_basis_text(orbital_basis):
        # PySCF goes by the name; the shells are for even-tempered functions.
        atom.basis = orbital_basis
    choice = df.make_auxbasis(atom)[symbol]
    return element_shells(choice, atomic_number) if isinstance(choice, str) else tuple(choice)


def fitted_factors(
    basis: Basis, auxiliary: Basis, positions: Float[np.ndarray, "nat 3"]
) -> Float[np.ndarray, "naux npair"]:
    """Factors B of (ij|kl) ~ sum_P B[P, ij] B[P, kl] over the orbitals of one conformer.

    Parameters
    ----------
    basis, auxiliary
        Of the molecule.
    positions
        Of the conformer, Bohr.

    Returns
    -------
    Packed over pairs i >= j, as in `qmgen.dft.factorised`.
    """
    kind = libcint_kind(basis)
    n, naux = len(basis.libcint_bas), len(auxiliary.libcint_bas)
    auxiliary_env = environment(auxiliary, positions)
    atm, bas, env = gto.conc_env(
        basis.libcint_atm,
        basis.libcint_bas,
        environment(basis, positions),
        auxiliary.libcint_atm,
        auxiliary.libcint_bas,
        auxiliary_env,
    )
    metric = gto.moleintor.getints(
        f"int2c2e_{kind}", auxiliary.libcint_atm, auxiliary.libcint_bas, auxiliary_env, hermi=1
    )
    three_index = gto.moleintor.getints(
        f"int3c2e_{kind}", atm, bas, env, (0, n, 0, n, n, n + naux), aosym="s2ij"
    )
    try:
        lower = scipy.linalg.cholesky(metric, lower=True)
    except scipy.linalg.LinAlgError:
        eigenvalues, U = scipy.linalg.eigh(metric)
        kept = eigenvalues > _LINEAR_DEPENDENCE
        B = (U[:, kept] / np.sqrt(eigenvalues[kept])).T @ three_index.T
    else:
        # From the right on the transpose, which is as BLAS wants it in memory.
        B = scipy.linalg.blas.dtrsm(
            1.0, lower, np.asfortranarray(three_index), side=1, lower=1, trans_a=1, overwrite_b=1
        ).T
    return (pair_transformation(basis) @ B.T).T if mixes_kinds(basis) else B


def density_fitting_engine(orbital_basis: str, name: str | None) -> IntegralEngine:
    """Engine that gives one-electron integrals, and two-electron ones as fitted factors.

    Parameters
    ----------
    orbital_basis, name
        As in `auxiliary_basis`.
    """

    def integrals(basis: Basis, positions: Positions) -> Integrals:
        auxiliary = auxiliary_basis(basis.atomic_numbers, orbital_basis, name, libcint_kind(basis))
        return replace(
            libcint_one_electron_integrals(basis, positions),
            factors=stack_factors([fitted_factors(basis, auxiliary, p) for p in positions]),
        )

    return integrals
