"""Forces against PySCF's own gradient and against finite differences of the energy."""

import numpy as np
import pytest

from qmgen.dft.config import DFTConfig
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.label import label_conformers
from tests.dft.systems import embed, pyscf_solution


@pytest.mark.parametrize(
    ("smiles", "functional", "basis"),
    [("O", "hf", "6-31g*"), ("C=O", "b3lyp5", "sto-3g"), ("F", "pbe", "def2-svp")],
)
def test_forces_equal_pyscf(smiles: str, functional: str, basis: str) -> None:
    z, positions, charge = embed(smiles)
    config = DFTConfig(functional=functional, basis=basis, grid_level=1)
    labels = label_conformers(z, positions, config)
    forces = nuclear_forces(z, positions, config, labels)
    gradient = pyscf_solution(z, positions[0], config, charge).nuc_grad_method().kernel()
    # The accuracy that the project promises; the densities differ by their convergence only.
    assert np.abs(forces[0] + gradient).max() < 1e-5


@pytest.mark.parametrize("cartesian", [(), (2,)])
def test_forces_are_the_energy_s_derivative(cartesian: tuple[int, ...]) -> None:
    z, positions, _ = embed("[H]F")
    config = DFTConfig(
        functional="b3lyp5", basis="6-31g*", cartesian=cartesian, grid_level=0, conv_tol=1e-12
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
