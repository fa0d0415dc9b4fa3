"""Labels against PySCF with the same options, and the symmetries that they must have."""

import numpy as np
import pytest

from qmgen.dft.config import DFTConfig
from qmgen.dft.label import label_conformers
from qmgen.errors import UnsupportedMoleculeError
from qmgen.units import DEBYE_PER_ATOMIC_UNIT, EV_PER_HARTREE
from tests.dft.systems import embed, pyscf_solution

STO3G = [
    ("O", "hf"),
    ("[H]F", "svwn"),
    ("N#CF", "pbe"),
    ("C1CO1", "pbe0"),
    ("CC(N)=O", "b3lyp"),
    ("FC(F)F", "b3lyp5"),
    ("c1ccoc1", "b3lypg"),
    ("CSC", "b3lyp"),
    ("ClCCl", "pbe"),
    ("O=[SH](=O)O", "hf"),
    ("OP(O)O", "svwn"),
    ("FP(F)F", "b3lyp5"),
    ("[NH4+]", "b3lyp"),
    ("[O-]C=O", "pbe0"),
    ("C[N+](=O)[O-]", "b3lyp5"),
    ("Cl[SiH3]", "b3lyp"),
]
SPLIT_VALENCE = [
    ("O", "b3lyp"),
    ("FCl", "b3lyp5"),
    ("S", "svwn"),
    ("P", "pbe"),
    ("C=O", "hf"),
    ("CO", "b3lypg"),
    ("C#N", "pbe0"),
    ("CF", "b3lyp"),
    ("O=S=O", "b3lyp"),
    ("CCl", "b3lyp5"),
    ("[OH-]", "pbe"),
    ("NN", "svwn"),
    ("CP", "b3lyp"),
]
COMBINATIONS = [
    *((s, f, "sto-3g") for s, f in STO3G),
    *((s, f, "6-31g*") for s, f in SPLIT_VALENCE),
    *((s, f, "def2-svp") for s, f in SPLIT_VALENCE),
    ("O", "b3lyp", "cc-pvtz"),
    ("[H]F", "pbe", "aug-cc-pvdz"),
]
# Each functional once, each basis, an ion of either sign; each compiles for seconds.
QUICK = {
    ("O", "hf", "sto-3g"),
    ("FP(F)F", "b3lyp5", "sto-3g"),
    ("[NH4+]", "b3lyp", "sto-3g"),
    ("C#N", "pbe0", "def2-svp"),
}


@pytest.mark.parametrize(
    ("smiles", "functional", "basis"),
    [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in COMBINATIONS],
)
def test_labels_equal_pyscf(smiles: str, functional: str, basis: str) -> None:
    z, positions, charge = embed(smiles)
    config = DFTConfig(functional=functional, basis=basis, grid_level=1)
    labels = label_conformers(z, positions, config, charge=charge)
    reference = pyscf_solution(z, positions[0], config, charge)
    nocc = reference.mol.nelectron // 2

    assert labels.converged[0]
    # The project's accuracy: 1e-6 Ha in the energy, 1e-5 Ha in frontier orbital energies, 1e-4 D.
    # What is reached is 1e-10 Ha, 1e-6 Ha and 1e-5 D; the bounds here leave a factor of ten.
    assert labels.energy[0] == pytest.approx(reference.e_tot, abs=1e-8)
    np.testing.assert_allclose(labels.orbital_energies[0], reference.mo_energy, atol=1e-5)
    assert labels.homo[0] == pytest.approx(reference.mo_energy[nocc - 1], abs=5e-6)
    assert labels.lumo[0] == pytest.approx(reference.mo_energy[nocc], abs=5e-6)
    assert labels.gap[0] == labels.lumo[0] - labels.homo[0]
    dipole_debye = labels.dipole[0] * DEBYE_PER_ATOMIC_UNIT
    np.testing.assert_allclose(dipole_debye, reference.dip_moment(verbose=0), atol=1e-4)
    assert labels.nuclear_repulsion[0] == pytest.approx(reference.mol.energy_nuc(), abs=1e-10)
    _, charges = reference.mulliken_pop(verbose=0)
    # First order in the density's error, as the dipole.
    np.testing.assert_allclose(labels.mulliken_charges[0], charges, atol=2e-5)


@pytest.mark.parametrize(
    ("smiles", "functional", "basis"),
    [
        ("CO", "b3lyp", "sto-3g"),
        pytest.param("CC(N)=O", "b3lyp", "sto-3g", marks=pytest.mark.slow),
        pytest.param("FCCl", "pbe", "6-31g*", marks=pytest.mark.slow),
        pytest.param("CSC", "hf", "def2-svp", marks=pytest.mark.slow),
    ],
)
def test_lower_precision_against_float64(smiles: str, functional: str, basis: str) -> None:
    z, positions, _ = embed(smiles)
    config = DFTConfig(functional=functional, basis=basis, grid_level=1, precision="float64")
    exact = label_conformers(z, positions, config)
    single, mixed = (
        label_conformers(z, positions, config.model_copy(update={"precision": precision}))
        for precision in ("float32", "mixed")
    )
    assert single.converged[0]
    # What is promised: second and first order in the density's error at its looser convergence.
    assert single.energy[0] == pytest.approx(exact.energy[0], abs=5e-5)
    assert single.gap[0] == pytest.approx(exact.gap[0], abs=5e-4)
    assert mixed.converged[0]
    # Rounding of float32 times the change of density since the build in float64, 1e-3.
    assert mixed.energy[0] == pytest.approx(exact.energy[0], abs=1e-9)
    # That of both, converged to an orbital gradient of 1e-5.
    np.testing.assert_allclose(mixed.orbital_energies, exact.orbital_energies, atol=2e-6)
    assert mixed.iterations[0] <= exact.iterations[0] + 1


# Two programs that no other test has.
@pytest.mark.slow
def test_cycles_that_end_in_single_precision_end_with_a_float64_energy() -> None:
    """With few cycles the energy is that of a float64 build of an unconverged density."""
    z, positions, _ = embed("CC(N)=O")
    config = DFTConfig(
        basis="sto-3g", grid_level=0, max_cycle=5, level_shift=0, damping=0, precision="float64"
    )
    exact = label_conformers(z, positions, config)
    mixed = label_conformers(z, positions, config.model_copy(update={"precision": "mixed"}))
    assert not mixed.converged[0]
    assert mixed.iterations[0] == exact.iterations[0] == 5
    # float32 energies are off by 1e-5 Ha; here only the density differs, by 1e-5, and the energy
    # by that times the orbital gradient, 1e-2.
    assert mixed.energy[0] == pytest.approx(exact.energy[0], abs=2e-6)


def test_same_arguments_give_the_same_bits() -> None:
    z, positions, _ = embed("CCO", nconf=2)
    config = DFTConfig(basis="sto-3g", grid_level=0)
    first, second = (label_conformers(z, positions, config) for _ in range(2))
    for name in ("energy", "orbital_energies", "density", "iterations"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_batch_equals_single() -> None:
    """Batches of three, the second of them filled up."""
    z, positions, _ = embed("CCO", nconf=5)
    # Programs of a batch take twice as long to compile with b3lyp.
    config = DFTConfig(functional="svwn", basis="sto-3g", grid_level=0, precision="float64")
    single = [label_conformers(z, positions[i : i + 1], config) for i in range(5)]
    batch = label_conformers(z, positions, config, batch_size=3)
    np.testing.assert_allclose(batch.energy, [one.energy[0] for one in single], atol=1e-8)
    # Later batches start from other orbitals.
    for i, one in enumerate(single[:3]):
        # Rounding: sums of a few hundred Hartree, in another order.
        assert batch.energy[i] == pytest.approx(one.energy[0], abs=1e-10)
        np.testing.assert_allclose(batch.orbital_energies[i], one.orbital_energies[0], atol=1e-9)
        np.testing.assert_allclose(batch.dipole[i], one.dipole[0], atol=1e-8)
        assert batch.iterations[i] == one.iterations[0]


def test_memory_that_conformers_share_keeps_nothing_of_one() -> None:
    """Hamiltonians are written over those of the conformer before, here one full of NaNs."""
    z, positions, _ = embed("CCO", nconf=3)
    broken = positions.copy()
    broken[0, 0] = broken[0, 1]
    config = DFTConfig(basis="sto-3g", grid_level=0)
    after = label_conformers(z, broken, config, batch_size=1)
    assert list(after.converged) == [False, True, True]
    without = label_conformers(z, positions[1:], config, batch_size=1)
    np.testing.assert_array_equal(after.energy[1:], without.energy)
    np.testing.assert_array_equal(after.density[1:], without.density)


def test_bad_batch_mate_harms_nobody() -> None:
    """Two nuclei on top of each other make NaNs, in that conformer alone."""
    z, positions, _ = embed("CCO", nconf=3)
    broken = positions.copy()
    broken[1, 0] = broken[1, 1]
    config = DFTConfig(basis="sto-3g", grid_level=0, precision="float64")
    good = label_conformers(z, positions, config, batch_size=3)
    bad = label_conformers(z, broken, config, batch_size=3)
    assert list(bad.converged) == [True, False, True]
    np.testing.assert_allclose(bad.energy[[0, 2]], good.energy[[0, 2]], atol=1e-10)


def test_energy_is_invariant_under_rotation_translation_and_permutation() -> None:
    z, positions, _ = embed("C=O")
    config = DFTConfig(functional="hf", basis="6-31g*")
    rng = np.random.default_rng(4)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    moved = positions @ rotation.T + rng.normal(size=3)
    order = rng.permutation(len(z))
    before = label_conformers(z, positions, config)
    after = label_conformers(z[order], moved[:, order], config)
    # Hartree-Fock has no grid, whose orientation would show.
    assert after.energy[0] == pytest.approx(before.energy[0], abs=1e-9)
    dipole = before.dipole[0] @ rotation.T
    np.testing.assert_allclose(after.dipole[0], dipole, atol=1e-6)
    np.testing.assert_allclose(
        after.mulliken_charges[0], before.mulliken_charges[0][order], atol=1e-6
    )


def test_size_consistency_of_far_molecules() -> None:
    z, positions, _ = embed("O")
    far = np.concatenate([positions, positions + 2000.0], axis=1)
    config = DFTConfig(functional="hf", basis="sto-3g")
    one = label_conformers(z, positions, config)
    two = label_conformers(np.concatenate([z, z]), far, config)
    # Dipoles of 1 a.u. at 3000 Bohr interact by 1e-10 Ha.
    assert two.energy[0] == pytest.approx(2 * one.energy[0], abs=1e-8)


def test_warm_start_from_a_neighbour_takes_fewer_cycles() -> None:
    z, positions, _ = embed("CCO")
    config = DFTConfig(basis="sto-3g", grid_level=0)
    cold = label_conformers(z, positions, config)
    nearby = positions + np.random.default_rng(0).normal(scale=1e-3, size=positions.shape)
    warm = label_conformers(z, nearby, config, initial_density=cold.density)
    from_scratch = label_conformers(z, nearby, config)
    assert warm.iterations[0] < from_scratch.iterations[0]
    assert warm.energy[0] == pytest.approx(from_scratch.energy[0], abs=1e-9)


def test_qm1b_criterion_runs_all_cycles_and_judges_by_spread() -> None:
    z, positions, _ = embed("CCO")
    config = DFTConfig(
        functional="b3lyp5",
        basis="sto-3g",
        grid_level=0,
        criterion="energy_std",
        max_cycle=20,
        diis_space=9,
    )
    labels = label_conformers(z, positions, config)
    assert labels.iterations[0] == 20
    assert labels.converged[0]
    assert labels.std_ev[0] < 1e-6
    reference = pyscf_solution(z, positions[0], config)
    assert labels.energy[0] == pytest.approx(reference.e_tot, abs=1e-8)

    five = config.model_copy(update={"max_cycle": 5, "level_shift": 0.0, "damping": 0.0})
    strict = five.model_copy(update={"energy_std_tol_ev": 1e-6, "precision": "float64"})
    spread = label_conformers(z, positions, strict)
    assert not spread.converged[0]
    assert spread.std_ev[0] > 1e-6


def test_spread_is_that_of_the_last_five_energies() -> None:
    """Energies of the cycles, got by stopping after each, give the recorded spread."""
    z, positions, _ = embed("[H]F")
    base = DFTConfig(functional="hf", basis="sto-3g", level_shift=0, damping=0, precision="float64")
    changes = []
    for cycles in range(5, 9):
        config = base.model_copy(
            update={"criterion": "energy_std", "max_cycle": cycles, "energy_std_tol_ev": 1e3}
        )
        labels = label_conformers(z, positions, config)
        changes.append(labels.energy_change[0])
        last = labels
    # E5 is taken as zero; the spread doesn't depend on it.
    energies_4_to_8 = np.cumsum([0.0, *changes])
    expected = np.std(energies_4_to_8) * EV_PER_HARTREE
    assert last.std_ev[0] == pytest.approx(expected, rel=1e-6)


def test_second_attempt_rescues_what_plain_diis_does_not() -> None:
    """A stretched molecule with a small gap, and few cycles allowed."""
    z = np.array([9, 9])
    positions = np.array([[[0, 0, 0], [0, 0, 5.0]]])
    config = DFTConfig(
        functional="pbe", basis="sto-3g", grid_level=0, max_cycle=60, precision="float64"
    )
    plain = config.model_copy(update={"level_shift": 0.0, "damping": 0.0, "max_cycle": 5})
    first = label_conformers(z, positions, plain)
    assert not first.converged[0]
    assert first.attempts[0] == 1
    second = label_conformers(z, positions, plain.model_copy(update={"level_shift": 0.3}))
    assert second.attempts[0] == 2
    assert label_conformers(z, positions, config).converged[0]


def test_no_virtual_orbital_gives_nan_not_a_number_of_padding() -> None:
    labels = label_conformers(np.array([2]), np.zeros((1, 1, 3)), DFTConfig(functional="hf"))
    assert labels.converged[0]
    assert np.isnan(labels.lumo[0])
    assert np.isnan(labels.gap[0])
    # Szabo and Ostlund: helium in STO-3G.
    assert labels.energy[0] == pytest.approx(-2.80778, abs=1e-5)


def test_hydrogen_molecule_equals_the_textbook() -> None:
    """Szabo and Ostlund, Modern Quantum Chemistry, table 3.5 and section 3.5.2."""
    positions = np.array([[[0, 0, 0], [0, 0, 1.4]]])
    labels = label_conformers(np.array([1, 1]), positions, DFTConfig(functional="hf"))
    assert labels.energy[0] == pytest.approx(-1.1167, abs=1e-4)
    np.testing.assert_allclose(labels.orbital_energies[0], [-0.578, 0.670], atol=1e-3)


@pytest.mark.parametrize(
    ("z", "charge", "reason"),
    [([8, 1], 0, "9 electrons"), ([1], 1, "0 electrons"), ([2, 2], -2, "do not fit")],
)
def test_what_cannot_be_labelled_is_refused(z: list[int], charge: int, reason: str) -> None:
    positions = np.arange(3.0 * len(z)).reshape(1, -1, 3)
    with pytest.raises(UnsupportedMoleculeError, match=reason):
        label_conformers(np.array(z), positions, DFTConfig(), charge=charge)


def test_molecule_beyond_the_memory_bound_is_refused() -> None:
    z, positions, _ = embed("CCCCCCCC")
    with pytest.raises(UnsupportedMoleculeError, match="GiB"):
        label_conformers(z, positions, DFTConfig(basis="cc-pvtz"))


def test_linear_dependence_is_not_called_converged() -> None:
    """Two atoms almost at the same place span almost the same functions."""
    positions = np.array([[[0, 0, 0], [0, 0, 1e-5]]])
    labels = label_conformers(np.array([1, 1]), positions, DFTConfig(functional="hf"))
    assert not labels.converged[0]
    assert labels.smallest_overlap_eigenvalue[0] < 1e-9
