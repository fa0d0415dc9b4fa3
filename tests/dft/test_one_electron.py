"""One-electron integrals against libcint."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.dft.basis import Basis, basis_from_shells, build_basis
from qmgen.dft.integrals import libcint_one_electron_integrals
from qmgen.dft.one_electron import one_electron_integrals
from qmgen.dft.shell_pairs import bucket, pair_table

NAMES = ("overlap", "kinetic", "nuclear_attraction", "dipole", "second_moment")
# Hartree, or products of Bohr: rounding, of sums below some hundreds.
TOLERANCE = 1e-10

integrals = jax.jit(one_electron_integrals)


def random_basis(largest: int, cartesian: tuple[int, ...] = ()) -> Basis:
    """O with shells s to ``largest`` of 1 to 4 primitives, H with two that share exponents."""
    rng = np.random.default_rng(largest)

    def shell(degree: int, nprim: int, ncontraction: int = 1) -> list:
        exponents = np.exp(rng.uniform(-1.5, 2, nprim))
        rows = np.column_stack([exponents, rng.uniform(0.2, 1, (nprim, ncontraction))])
        return [degree, *rows.tolist()]

    oxygen = [shell(degree, 4 - degree) for degree in range(largest + 1)]
    hydrogen = [shell(0, 4, 2), shell(1, 1)]
    return basis_from_shells(np.array([8, 1, 1]), {8: oxygen, 1: hydrogen}, cartesian)


def geometries() -> np.ndarray:
    """A random one; one with an atom on another, far off the origin; one with atoms far apart."""
    rng = np.random.default_rng(3)
    positions = rng.normal(size=(3, 3, 3))
    positions[1, 2] = positions[1, 0]
    positions[1] += 5
    positions[2] *= 8
    return positions


def padded(basis: Basis):
    """Table and charges with two orbitals and one atom too many."""
    charges = jnp.asarray([*basis.atomic_numbers.tolist(), 0], jnp.float64)
    return pair_table(basis, basis.nao + 2), charges


@pytest.mark.parametrize(
    ("largest", "cartesian"),
    [
        (1, ()),
        pytest.param(2, (2,), marks=pytest.mark.slow),
        pytest.param(3, (), marks=pytest.mark.slow),
        pytest.param(3, (3,), marks=pytest.mark.slow),
    ],
    ids=["sp", "Cartesian spd", "spdf", "Cartesian f"],
)
def test_agrees_with_libcint(largest, cartesian):
    basis = random_basis(largest, cartesian)
    table, charges = padded(basis)
    positions = geometries()
    expected = libcint_one_electron_integrals(basis, positions)
    n = basis.nao
    for k, xyz in enumerate(positions):
        result = integrals(table, charges, jnp.asarray(np.vstack([xyz, np.zeros(3)])))
        for name in NAMES:
            value = np.asarray(getattr(result, name))
            np.testing.assert_allclose(
                value[..., :n, :n], getattr(expected, name)[k], rtol=0, atol=TOLERANCE
            )
            assert not value[..., n:, :].any()
            assert not value[..., :, n:].any()


@pytest.mark.slow
def test_published_basis_of_many_contractions():
    # Exponents from 0.1 to 2e4, contractions of 1, 3 and 6.
    z = np.array([16, 6, 1])
    basis = build_basis(z, "6-31g*")
    positions = np.random.default_rng(0).normal(size=(1, 3, 3)) * 2
    expected = libcint_one_electron_integrals(basis, positions)
    table = pair_table(basis, basis.nao)
    result = integrals(table, jnp.asarray(z, jnp.float64), jnp.asarray(positions[0]))
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(result, name), getattr(expected, name)[0], rtol=1e-13, atol=TOLERANCE
        )


def test_conformers_may_be_batched():
    basis = random_basis(1)
    table, charges = padded(basis)
    positions = jnp.pad(jnp.asarray(geometries()), ((0, 0), (0, 1), (0, 0)))
    batched = jax.jit(jax.vmap(one_electron_integrals, in_axes=(None, None, 0)))
    result = batched(table, charges, positions)
    for k in range(len(positions)):
        one = integrals(table, charges, positions[k])
        for name in NAMES:
            np.testing.assert_allclose(
                getattr(result, name)[k], getattr(one, name), rtol=0, atol=1e-11
            )


def test_molecules_share_a_program():
    # H3O and H2O2 have different numbers of shells of each kind.
    shells = {8: [[0, [1.5, 1.0]], [1, [0.9, 1.0]]], 1: [[0, [0.7, 1.0]], [1, [0.5, 1.0]]]}
    tables = [
        pair_table(basis_from_shells(np.array(z), shells), 16) for z in ([8, 1, 1, 1], [1, 8, 8, 1])
    ]
    first, second = (
        (jax.tree.structure(t), [(a.shape, a.dtype) for a in jax.tree.leaves(t)]) for t in tables
    )
    assert first == second
    assert not eqx.tree_equal(*tables)


@pytest.mark.parametrize("largest", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_derivatives_are_those_of_libcint(largest):
    basis = random_basis(largest)
    table, z = pair_table(basis, basis.nao), jnp.asarray(basis.atomic_numbers, jnp.float64)
    direction = np.random.default_rng(5).normal(size=(3, 3))
    weights = np.random.default_rng(6).normal(size=(basis.nao, basis.nao))

    def matrices(xyz):
        r = one_electron_integrals(table, z, xyz)
        return {name: getattr(r, name) for name in NAMES}

    def energy(xyz):
        r = one_electron_integrals(table, z, xyz)
        return jnp.sum(weights * (r.kinetic + r.nuclear_attraction))

    @jax.jit
    def derivatives(xyz):
        along = jax.jvp(matrices, (xyz,), (jnp.asarray(direction),))[1]
        return along, jax.grad(energy)(xyz)

    # Fourth-order differences: the remainder is step^4 / 30 times fifth derivatives below 1e5,
    # and rounding is 1e-13 / step.
    step = 1e-3
    steps = step * np.array([-2, -1, 1, 2])
    for positions in geometries()[:2]:
        along, gradient = derivatives(jnp.asarray(positions))
        moved = libcint_one_electron_integrals(basis, positions + steps[:, None, None] * direction)
        for name in NAMES:
            difference = np.tensordot(np.array([1, -8, 8, -1]), getattr(moved, name), 1)
            np.testing.assert_allclose(along[name], difference / (12 * step), rtol=0, atol=1e-7)
        np.testing.assert_allclose(
            np.sum(gradient * direction),
            np.sum(weights * (along["kinetic"] + along["nuclear_attraction"])),
            rtol=1e-11,
        )


def test_single_precision():
    basis = random_basis(1)
    table, z = pair_table(basis, basis.nao), jnp.asarray(basis.atomic_numbers, jnp.float32)
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, table)
    positions = geometries()[:1]
    expected = libcint_one_electron_integrals(basis, positions)
    result = integrals(narrow, z, jnp.asarray(positions[0], jnp.float32))
    for name in NAMES:
        value, exact = getattr(result, name), getattr(expected, name)[0]
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_buckets_waste_at_most_a_third():
    for n in range(1, 500):
        assert n <= bucket(n) <= max(1, n * 1.5)
