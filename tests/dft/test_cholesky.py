"""Cholesky factors against exact integrals: each integral, and energies of whole calculations."""

import numpy as np
import pytest

from qmgen.dft import sizes
from qmgen.dft.basis import build_basis
from qmgen.dft.cholesky import CHOLESKY_THRESHOLD, cholesky_factors, cholesky_integrals
from qmgen.dft.config import DFTConfig
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.label import label_conformers
from qmgen.errors import UnsupportedMoleculeError
from tests.dft.systems import embed, pyscf_solution


@pytest.mark.parametrize("threshold", [1e-4, CHOLESKY_THRESHOLD])
@pytest.mark.parametrize(
    ("smiles", "basis"),
    # The last one has general contractions, the one before a diffuse basis.
    [("CO", "sto-3g"), ("C=O", "6-31g*"), ("[H]F", "aug-cc-pvdz"), ("O", "cc-pvtz")],
)
def test_every_integral_is_within_the_threshold(smiles: str, basis: str, threshold: float) -> None:
    z, positions, _ = embed(smiles)
    orbitals = build_basis(z, basis)
    B = cholesky_factors(orbitals, positions[0], threshold)
    V = B.T @ B
    exact = libcint_integrals(orbitals, positions).eri[0]
    error = exact - V[np.tril_indices(len(V))]
    # Cauchy and Schwarz: what remains is positive semi-definite.
    assert np.abs(error).max() <= 1.001 * threshold
    assert len(B) < len(V)


def test_mixed_cartesian_and_pure_shells() -> None:
    z, positions, _ = embed("O")
    orbitals = build_basis(z, "cc-pvtz", (2,))
    B = cholesky_factors(orbitals, positions[0])
    V = B.T @ B
    exact = libcint_integrals(orbitals, positions).eri[0]
    # libcint's Cartesian functions of one shell are not normalised, by up to a factor of 5 each.
    np.testing.assert_allclose(V[np.tril_indices(len(V))], exact, atol=25 * CHOLESKY_THRESHOLD)


def test_coincident_nuclei_need_no_more_vectors_than_one() -> None:
    """The rank is that of the functions' span, however many times each is there."""
    one = build_basis(np.array([8]), "6-31g")
    two = build_basis(np.array([8, 8]), "6-31g")
    B1 = cholesky_factors(one, np.zeros((1, 3)))
    B2 = cholesky_factors(two, np.zeros((2, 3)))
    assert len(B1) == len(B2)


@pytest.mark.parametrize(
    ("smiles", "functional", "basis"),
    [
        ("CCO", "hf", "sto-3g"),
        pytest.param("C=O", "b3lyp", "6-31g*", marks=pytest.mark.slow),
        pytest.param("O=S=O", "pbe", "def2-svp", marks=pytest.mark.slow),
    ],
)
def test_energy_equals_that_of_exact_integrals(smiles: str, functional: str, basis: str) -> None:
    z, positions, _ = embed(smiles)
    config = DFTConfig(functional=functional, basis=basis, grid_level=0, precision="float64")
    exact = label_conformers(z, positions, config, integral_engine=libcint_integrals)
    factorised = label_conformers(z, positions, config, integral_engine=cholesky_integrals)
    assert factorised.converged[0]
    # Largest error found over these and six other molecules: 1e-7 Ha, 3e-7 Ha in orbital energies.
    assert factorised.energy[0] == pytest.approx(exact.energy[0], abs=1.5e-7)
    assert factorised.energy[0] != exact.energy[0]
    np.testing.assert_allclose(factorised.orbital_energies[0], exact.orbital_energies[0], atol=1e-6)
    np.testing.assert_allclose(factorised.dipole[0], exact.dipole[0], atol=1e-6)


@pytest.mark.slow
def test_float32_cycles_end_at_the_float64_energy() -> None:
    z, positions, _ = embed("O")
    config = DFTConfig(basis="6-31g*", grid_level=0, precision="float32")
    labels = label_conformers(z, positions, config, integral_engine=cholesky_integrals)
    assert labels.converged[0]
    # As with packed integrals: second order in the float32 density's error.
    reference = pyscf_solution(z, positions[0], config)
    assert labels.energy[0] == pytest.approx(reference.e_tot, abs=5e-5)


@pytest.mark.slow
def test_batch_and_warm_start() -> None:
    """Conformers with different numbers of vectors, and a bad one, side by side."""
    z, positions, _ = embed("CCO", nconf=3)
    positions = positions.copy()
    positions[1, 0] = positions[1, 1]
    config = DFTConfig(basis="sto-3g", functional="hf", level_shift=0, damping=0)
    batch = label_conformers(z, positions, config, batch_size=3, integral_engine=cholesky_integrals)
    assert list(batch.converged) == [True, False, True]
    kept = positions[[0, 2]]
    exact = label_conformers(z, kept, config, integral_engine=libcint_integrals)
    np.testing.assert_allclose(batch.energy[[0, 2]], exact.energy, atol=1.5e-7)
    warm = label_conformers(
        z,
        kept,
        config,
        initial_density=batch.density[[0, 2]],
        integral_engine=cholesky_integrals,
    )
    assert (warm.iterations < batch.iterations[[0, 2]]).all()
    np.testing.assert_allclose(warm.energy, batch.energy[[0, 2]], atol=1e-9)


def test_larger_molecules_take_the_factorised_path_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, positions, _ = embed("O")
    config = DFTConfig(functional="hf", basis="6-31g*")
    assert sizes.program_shape(z, config).nfactors == 0
    monkeypatch.setattr(sizes, "LARGEST_PACKED_NAO", 10)
    shape = sizes.program_shape(z, config)
    assert shape.nfactors > 0
    basis = build_basis(z, config.basis)
    engine, _ = sizes.default_engine(basis, positions, shape, config)
    assert engine is cholesky_integrals
    reference = pyscf_solution(z, positions[0], config)
    error = label_conformers(z, positions, config).energy[0] - reference.e_tot
    # Not rounding, as with packed integrals, but within the decomposition's accuracy.
    assert 1e-11 < abs(error) < 1.5e-7


def test_memory_bound_lets_the_molecules_of_qm9_in() -> None:
    """Octane: the most orbitals but for nonane, on as many points as any with eight heavy atoms."""
    z, _, _ = embed("CCCCCCCC")
    config = DFTConfig(basis="6-31G(2df,p)")
    shape = sizes.program_shape(z, config)
    assert shape.nao > 290
    sizes.check_memory(shape, "float64")
    fitted = config.model_copy(update={"two_electron": "density_fitting"})
    less = sizes.program_shape(z, fitted)
    assert sizes.bytes_per_conformer(less, "float64") < sizes.bytes_per_conformer(shape, "float64")
    large = sizes.program_shape(z, DFTConfig(basis="cc-pvtz"))
    with pytest.raises(UnsupportedMoleculeError, match="GiB"):
        sizes.check_memory(large, "float64")
