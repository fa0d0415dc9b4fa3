"""Forces against PySCF's own gradient and against finite differences of the energy."""

from pathlib import Path

import numpy as np
import pytest
from pyscf import dft, gto

from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.forces import energy_gradient, nuclear_forces
from qmgen.dft.functionals import get_functional
from qmgen.dft.label import label_conformers
from tests.dft.systems import embed, pyscf_solution

MIXED = str(Path(__file__).parents[2] / "workflows" / "data" / "6-31g_2df_p_gaussian.nw")
# Forces have an error of first order in the density's, and 1e-10 Hartree leave 1e-5 in it.
TIGHT = 1e-13


@pytest.mark.parametrize(
    ("smiles", "functional", "basis", "cartesian", "grid_response"),
    [
        ("O", "hf", "6-31g*", (), False),
        pytest.param("C=O", "b3lyp", "sto-3g", (), False, marks=pytest.mark.slow),
        pytest.param("F", "pbe", "def2-svp", (), True, marks=pytest.mark.slow),
        pytest.param("N", "svwn", "6-31g*", (), False, marks=pytest.mark.slow),
        ("[OH3+]", "blyp", "sto-3g", (), True),
        pytest.param("F", "b3lyp", MIXED, (2,), False, marks=pytest.mark.slow),
    ],
)
def test_forces_equal_pyscf(
    smiles: str, functional: str, basis: str, cartesian: tuple[int, ...], grid_response: bool
) -> None:
    z, positions, charge = embed(smiles)
    config = DFTConfig(
        functional=functional, basis=basis, cartesian=cartesian, grid_level=0, conv_tol=TIGHT
    )
    labels = label_conformers(z, positions, config, charge=charge)
    forces = nuclear_forces(
        z, positions, config, labels, charge=charge, grid_response=grid_response
    )
    gradient = pyscf_solution(z, positions[0], config, charge).nuc_grad_method()
    if get_functional(functional).terms:
        gradient.grid_response = grid_response
    # PySCF's density is converged to 1e-6 in the orbital gradient.
    assert np.abs(forces[0] + gradient.kernel()).max() < 1e-7


def test_forces_equal_pyscf_with_fitted_densities() -> None:
    z, positions, charge = embed("O")
    config = DFTConfig(
        functional="pbe", basis="6-31g*", two_electron="density_fitting", grid_level=0
    )
    labels = label_conformers(z, positions, config)
    forces = nuclear_forces(z, positions, config, labels)
    gradient = pyscf_solution(z, positions[0], config, charge).nuc_grad_method().kernel()
    # The accuracy that the project promises; the densities differ by their convergence only.
    assert np.abs(forces[0] + gradient).max() < 1e-5


@pytest.mark.parametrize("functional", ["svwn", "b3lyp"])
def test_gradient_of_two_spins_equals_pyscf(functional: str) -> None:
    z, positions, _ = embed("C=O")
    config = DFTConfig(functional=functional, basis="sto-3g", grid_level=0)
    atoms = [(int(a), tuple(p)) for a, p in zip(z, positions[0], strict=True)]
    mol = gto.M(atom=atoms, unit="Bohr", basis="sto-3g", charge=1, spin=1, verbose=0)
    mf = dft.UKS(mol, xc=get_functional(functional).pyscf_name)
    mf.grids.level, mf.conv_tol, mf.conv_tol_grad = 0, 1e-12, 1e-7
    mf.kernel()
    gradient = mf.nuc_grad_method()
    weighted = sum(gradient.make_rdm1e())
    found = energy_gradient(
        build_basis(z, "sto-3g"),
        positions,
        config,
        np.asarray(mf.make_rdm1())[None],
        weighted[None],
        grid_response=False,
    )
    # The same density in both, so only rounding and libcint's screening differ.
    assert np.abs(found[0] - gradient.kernel()).max() < 1e-8


@pytest.mark.parametrize(
    ("basis", "cartesian"),
    [
        ("sto-3g", ()),
        pytest.param("6-31g*", (), marks=pytest.mark.slow),
        pytest.param("6-31g*", (2,), marks=pytest.mark.slow),
    ],
)
def test_forces_are_the_energy_s_derivative(basis: str, cartesian: tuple[int, ...]) -> None:
    z, positions, _ = embed("[H]F")
    config = DFTConfig(
        functional="b3lyp5", basis=basis, cartesian=cartesian, grid_level=0, conv_tol=1e-12
    )
    labels = label_conformers(z, positions, config)
    forces = nuclear_forces(z, positions, config, labels, grid_response=True)
    rng = np.random.default_rng(1)
    direction = rng.normal(size=positions[0].shape)
    step = 2e-3
    displaced = np.stack([positions[0] + s * direction for s in (step, -step)])
    ahead, behind = label_conformers(z, displaced, config).energy
    # Error of central differences: step^2 / 6 times a third derivative of about 1.
    assert np.sum(forces[0] * direction) == pytest.approx(-(ahead - behind) / (2 * step), abs=1e-5)
    # Nothing changes as all atoms move together; each is a sum of 1e4 terms of order 1.
    assert np.abs(forces[0].sum(axis=0)).max() < 1e-10


def test_energies_that_are_no_numbers_have_no_forces() -> None:
    z, positions, _ = embed("O")
    together = positions.copy()
    together[0, 1] = together[0, 0]
    both = np.concatenate([positions, together])
    config = DFTConfig(functional="hf", basis="sto-3g")
    labels = label_conformers(z, both, config)
    forces = nuclear_forces(z, both, config, labels)
    assert np.isfinite(forces[0]).all()
    assert np.isnan(forces[1]).all() or np.isfinite(labels.energy[1])
