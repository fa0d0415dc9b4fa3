"""Range-separated hybrids against PySCF."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from qmgen.dft.config import DFTConfig
from qmgen.dft.exchange import WB97X_OMEGA
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.label import label_conformers
from qmgen.dft.range_separation import range_separated_engine
from qmgen.dft.sizes import program_shape
from tests.dft.systems import embed, pyscf_solution


@pytest.mark.parametrize(
    ("smiles", "basis"),
    [
        pytest.param("O", "6-31g*", marks=pytest.mark.slow),
        ("NC=O", "sto-3g"),
        pytest.param("CCl", "sto-3g", marks=pytest.mark.slow),
        pytest.param("CP", "6-31g*", marks=pytest.mark.slow),
    ],
)
def test_labels_equal_pyscf(smiles: str, basis: str) -> None:
    z, positions, _ = embed(smiles)
    config = DFTConfig(functional="wb97x", basis=basis, grid_level=0)
    labels = label_conformers(z, positions, config)
    reference = pyscf_solution(z, positions[0], config)
    assert labels.converged[0]
    # Bounds as for other functionals.
    assert labels.energy[0] == pytest.approx(reference.e_tot, abs=1e-8)
    np.testing.assert_allclose(labels.orbital_energies[0], reference.mo_energy, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("smiles", "spin"), [("[CH3]", 1), ("O", 0)])
def test_cholesky_vectors_of_both_operators_give_the_same_labels(smiles: str, spin: int) -> None:
    z, positions, _ = embed(smiles)
    config = DFTConfig(functional="wb97x", basis="sto-3g", grid_level=0)
    exact = label_conformers(z, positions, config, spin=spin)
    engine = range_separated_engine(WB97X_OMEGA, factorised=True)
    factorised = label_conformers(z, positions, config, spin=spin, integral_engine=engine)
    # The decomposition's threshold is 1e-8 Ha an integral.
    assert factorised.energy[0] == pytest.approx(exact.energy[0], abs=1e-7)
    np.testing.assert_allclose(factorised.orbital_energies, exact.orbital_energies, atol=5e-6)


def test_forces_equal_pyscf() -> None:
    z, positions, _ = embed("O")
    config = DFTConfig(functional="wb97x", basis="6-31g*", grid_level=0)
    labels = label_conformers(z, positions, config)
    forces = nuclear_forces(z, positions, config, labels)
    gradient = pyscf_solution(z, positions[0], config).nuc_grad_method().kernel()
    # The accuracy that the project promises.
    assert np.abs(forces[0] + gradient).max() < 1e-5


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ValidationError, match=r"wb97x is a range-separated.*two_electron: exact"):
        DFTConfig(functional="wb97x", two_electron="density_fitting")
    z, positions, _ = embed("O")
    config = DFTConfig(functional="wb97x", basis="sto-3g", grid_level=0)
    with pytest.raises(ValueError, match="range_separated_engine"):
        label_conformers(z, positions, config, integral_engine=libcint_integrals)


def test_programs_with_and_without_are_told_apart() -> None:
    z, _, _ = embed("O")
    with_it = program_shape(z, DFTConfig(functional="wb97x"))
    without = program_shape(z, DFTConfig(functional="b3lyp"))
    assert with_it == replace(without, long_range=True)
