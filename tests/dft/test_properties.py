"""Moments of the density against PySCF, and how they move with the molecule."""

import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import scf

from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.label import label_conformers
from qmgen.dft.properties import quadrupole_moment
from tests.dft.systems import embed, pyscf_molecule, pyscf_solution


def nuclear_charge_centre(z: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.average(positions, axis=0, weights=z)


@pytest.mark.parametrize(
    ("smiles", "functional", "basis", "cartesian"),
    [
        ("O", "hf", "6-31g*", ()),
        pytest.param("C#N", "pbe", "def2-svp", (), marks=pytest.mark.slow),
        ("[OH-]", "hf", "6-31g*", (2,)),
        pytest.param("[NH4+]", "hf", "def2-svp", (), marks=pytest.mark.slow),
    ],
)
def test_quadrupole_equals_pyscf(
    smiles: str, functional: str, basis: str, cartesian: tuple[int, ...]
) -> None:
    z, positions, charge = embed(smiles)
    config = DFTConfig(functional=functional, basis=basis, cartesian=cartesian, grid_level=0)
    labels = label_conformers(z, positions, config, charge=charge)
    reference = pyscf_solution(z, positions[0], config, charge)
    centre = nuclear_charge_centre(z, positions[0])
    expected = reference.quad_moment(unit="AU", origin=centre, verbose=0)
    # First order in the density's error as the dipole, whose 1e-5 Debye is 4e-6 e Bohr, times the
    # molecule's size of some Bohr.
    np.testing.assert_allclose(labels.quadrupole[0], expected, atol=5e-5)
    assert np.abs(expected).max() > 0.01 or smiles == "[NH4+]"


@pytest.mark.parametrize(("smiles", "charge"), [("O", 0), ("[OH-]", -1)])
def test_quadrupole_of_a_given_density_equals_pyscf(smiles: str, charge: int) -> None:
    """Without the SCF's error, also far from the origin."""
    z, positions, _ = embed(smiles)
    away = positions + np.array([30.0, -20.0, 10.0])
    mol = pyscf_molecule(z, away[0], "def2-svp", charge)
    density = scf.RHF(mol).get_init_guess(key="1e")
    integrals = libcint_integrals(build_basis(z, "def2-svp"), away)
    found = quadrupole_moment(
        jnp.asarray(density),
        jnp.asarray(integrals.overlap[0]),
        jnp.asarray(integrals.dipole[0]),
        jnp.asarray(integrals.second_moment[0]),
        jnp.asarray(z, float),
        jnp.asarray(away[0]),
    )
    centre = nuclear_charge_centre(z, away[0])
    expected = scf.hf.quad_moment(mol, density, unit="AU", origin=centre, verbose=0)
    # Second moments of 1e4 e Bohr^2 cancel, in double precision.
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_quadrupole_follows_rotations_and_ignores_translations() -> None:
    """Hartree-Fock has no grid; hydroxide has charge, dipole and quadrupole."""
    z, positions, charge = embed("[OH-]")
    config = DFTConfig(functional="hf", basis="6-31g*")
    rng = np.random.default_rng(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    moved = positions @ rotation.T + rng.normal(size=3)
    before = label_conformers(z, positions, config, charge=charge).quadrupole[0]
    after = label_conformers(z, moved, config, charge=charge).quadrupole[0]
    # What convergence leaves, as above.
    np.testing.assert_allclose(after, rotation @ before @ rotation.T, atol=2e-5)
    assert np.trace(after) == pytest.approx(0, abs=1e-12)
    # Sums of a few dozen terms of order 1, rounded.
    np.testing.assert_allclose(after, after.T, atol=1e-12)
