"""Products of orbitals as Hermite Gaussians, against PySCF's values of the orbitals at points."""

import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import gto
from scipy.special import eval_hermite

from qmgen.dft.basis import Basis, basis_from_shells
from qmgen.dft.cartesian import cartesian_to_orbitals
from qmgen.dft.hermite import cartesian_powers
from qmgen.dft.integrals import environment
from qmgen.dft.pair_expansion import expand_pairs, pair_tables
from qmgen.dft.pair_form import PairKind, ShellKind, pair_form
from qmgen.dft.repulsion_pairs import pair_classes, shared_shells

SHELLS = {
    "s": [[0, [0.8, 1.0]]],
    "p": [[1, [1.1, 0.7], [0.4, 0.5]]],
    "sp": [[0, [2.9, 0.2], [0.4, 0.7]], [1, [2.9, 0.3], [0.4, 0.6]]],
    "d": [[2, [1.3, 0.5], [0.35, 0.6]]],
    "f": [[3, [0.9, 1.0]]],
}


def hermite_gaussian(powers: tuple[int, int, int], p: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Derivatives by the centre of exp(-p r^2): Hermite polynomials times it."""
    value = np.exp(-p * np.sum(r**2, axis=0))
    for degree, x in zip(powers, r, strict=True):
        value = value * p ** (degree / 2) * eval_hermite(degree, np.sqrt(p) * x)
    return value


def orbital_values(basis: Basis, conformer: np.ndarray, points: np.ndarray) -> np.ndarray:
    """PySCF's values of the orbitals, (nao, npoint)."""
    mol = gto.Mole()
    mol._atm, mol._bas = basis.libcint_atm, basis.libcint_bas
    mol._env = environment(basis, conformer)
    mol._built = True
    values = mol.eval_gto("GTOval_cart", points)
    return (values @ cartesian_to_orbitals(basis)).T


@pytest.mark.parametrize(
    ("a", "b", "cartesian"),
    [("p", "s", ()), ("sp", "p", ()), ("d", "sp", ()), ("f", "p", ()), ("d", "d", (2,))],
)
def test_products_of_orbitals_at_points(a: str, b: str, cartesian: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    z = np.array([1, 2], np.int32)
    basis = basis_from_shells(z, {1: SHELLS[a], 2: SHELLS[b]}, cartesian)
    positions = rng.normal(scale=0.8, size=(3, 2, 3))
    points = rng.normal(scale=0.8, size=(20, 3))
    classes = pair_classes(shared_shells(basis), positions, 1e-12)
    pairs = next(c for c in classes if (c.kind.a != c.kind.b) == (a != b))
    which = next(i for i, atoms in enumerate(pairs.atoms) if atoms[0] != atoms[1])
    form = pair_form(pairs.kind)
    last = jnp.asarray(np.moveaxis(positions, 0, -1))
    expansion = expand_pairs(pair_tables(pairs), last, kind=pairs.kind)
    for n, conformer in enumerate(positions):
        p = np.asarray(expansion.exponents)[:, which]
        centres = np.asarray(expansion.centres)[:, :, which, n]
        sums = []
        for order, weights in enumerate(expansion.weights):
            # Without the factor of repulsion integrals.
            w = np.asarray(weights)[:, :, which, n] * p / (2**0.5 * np.pi**1.25)
            r = points.T[:, :, None] - centres[:, None]
            of_order = [hermite_gaussian(powers, p, r) for powers in cartesian_powers(order)]
            sums += [np.sum(row * values, axis=-1) for row in w for values in of_order]
        assert len(sums) == form.nsum
        monomials = np.asarray(expansion.monomials)[:, which, n]
        products = np.array(
            [
                sum(t.number * monomials[t.monomial] * sums[t.sum] for t in terms)
                for terms in form.components
            ]
        )
        reference = orbital_values(basis, conformer, points)
        i, j = pairs.orbitals[which].T
        # Rounding.
        np.testing.assert_allclose(products, reference[i] * reference[j], atol=1e-13)


def test_number_of_orbitals() -> None:
    kind = ShellKind((0, 1, 2), ())
    assert kind.norbital == 1 + 3 + 5
    cartesian = ShellKind((2,), (2,))
    assert PairKind(kind, cartesian).ncomponent == 9 * 6
    assert PairKind(kind, cartesian).max_l == 4
