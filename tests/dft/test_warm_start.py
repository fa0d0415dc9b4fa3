"""Orbitals that conformers start from, predicted from others of the molecule."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from qmgen.dft import label
from qmgen.dft.atom_frames import atom_rotations, shell_rotations
from qmgen.dft.basis import build_basis
from qmgen.dft.cholesky import cholesky_integrals
from qmgen.dft.config import DFTConfig
from qmgen.dft.conformer_labels import ConformerLabels
from qmgen.dft.guess import minao_density
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.label import label_conformers
from qmgen.dft.scf import is_idempotent
from qmgen.dft.warm_start import lowdin_orbitals, predicted_orbitals, with_solved
from tests.dft.systems import embed

TURN = Rotation.from_rotvec([0.7, -1.9, 1.1]).as_matrix()
REFLECT = np.diag([1.0, -1.0, 1.0])
# Densities to 1e-7.
CLOSE = {"conv_tol": 1e-12, "precision": "float64", "functional": "hf"}


def vibrating(smiles: str, nconf: int) -> tuple[np.ndarray, np.ndarray]:
    """Charges, and positions of conformers that lie as they like and are not quite alike."""
    z, (place,), _ = embed(smiles)
    rng = np.random.default_rng(1)
    moved = place + rng.normal(scale=0.03, size=(nconf, *place.shape))
    return z, moved @ Rotation.random(nconf, rng).as_matrix()


def cold(monkeypatch: pytest.MonkeyPatch, *args: object, **options: object) -> ConformerLabels:
    """Labels of conformers that all start from the minao guess."""
    with monkeypatch.context() as patch:
        patch.setattr(label, "with_solved", lambda *_: None)
        return label_conformers(*args, **options)


@pytest.mark.parametrize("cartesian", [False, True])
@pytest.mark.parametrize("angular", [1, 2, 3])
def test_shell_rotations_are_orthogonal_and_compose(angular: int, cartesian: bool) -> None:
    second = REFLECT @ TURN @ TURN
    A, B, AB = shell_rotations(np.stack([TURN, second, TURN @ second]), angular, cartesian)
    np.testing.assert_allclose(A @ A.T, np.eye(len(A)), atol=1e-12)
    np.testing.assert_allclose(A @ B, AB, atol=1e-12)
    if angular == 1:
        np.testing.assert_allclose(A, TURN, atol=1e-12)


@pytest.mark.parametrize("smiles", ["C#C", "O", "CCO"])
def test_atoms_turn_as_a_rigid_molecule_does(smiles: str) -> None:
    """Lines may turn about themselves as well, but all atoms by the same angle."""
    _, (old,), _ = embed(smiles)
    new = old @ TURN.T + 1.5
    R = atom_rotations(old, new)
    np.testing.assert_allclose(R, np.broadcast_to(R[0], R.shape), atol=1e-10)
    np.testing.assert_allclose((old - old[0]) @ R[0].T, new - new[0], atol=1e-10)
    if smiles == "CCO":
        np.testing.assert_allclose(R[0], TURN, atol=1e-10)


def test_a_group_turns_by_itself() -> None:
    """Methyl's carbon goes with its hydrogens, the oxygen stays."""
    _, (old,), _ = embed("CCO")
    axis = old[1] - old[0]
    new = old.copy()
    turn = Rotation.from_rotvec(0.4 * axis / np.linalg.norm(axis)).as_matrix()
    new[3:6] = (old[3:6] - old[0]) @ turn.T + old[0]
    methyl, _, oxygen = np.linalg.norm(
        Rotation.from_matrix(atom_rotations(old, new)[:3]).as_rotvec(), axis=1
    )
    assert methyl > 0.3
    assert oxygen < 0.05


def test_one_atom_or_two_in_one_place_still_have_rotations() -> None:
    for old, new in [(np.zeros((1, 3)), np.ones((1, 3))), (np.zeros((3, 3)), np.eye(3))]:
        R = atom_rotations(old, new)
        np.testing.assert_allclose(
            R @ R.swapaxes(1, 2), np.eye(3)[None].repeat(len(R), 0), atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(R), 1.0)


@pytest.mark.parametrize(
    ("smiles", "basis", "cartesian", "turn"),
    [
        ("C=O", "sto-3g", (), TURN),
        ("C=O", "6-31g*", (), TURN @ REFLECT),
        ("C=O", "6-31g*", (2,), TURN),
        ("C#N", "6-31g*", (), TURN),
    ],
)
def test_rigid_copy_gets_its_converged_density(
    smiles: str, basis: str, cartesian: tuple[int, ...], turn: np.ndarray
) -> None:
    z, (place,), _ = embed(smiles)
    config = DFTConfig(basis=basis, cartesian=cartesian, **CLOSE)
    labels = label_conformers(z, np.stack([place, place @ turn.T + 0.3]), config)
    assert labels.iterations[1] == 1
    assert labels.energy[1] == pytest.approx(labels.energy[0], abs=1e-10)


@pytest.mark.parametrize(
    ("smiles", "spin", "basis_name"), [("CO", 0, "6-31g*"), ("C[CH2]", 1, "sto-3g")]
)
def test_predicted_orbitals(smiles: str, spin: int, basis_name: str) -> None:
    """They are orthonormal, and those of a conformer that is among the solved ones are its own."""
    z, positions = vibrating(smiles, 4)
    basis = build_basis(z, basis_name)
    noccupied = ((int(z.sum()) + spin) // 2, (int(z.sum()) - spin) // 2)
    config = DFTConfig(basis=basis_name, **CLOSE)
    integrals = libcint_integrals(basis, positions)
    S, T = integrals.overlap, integrals.kinetic
    lowdin = lowdin_orbitals(basis, S)
    raw = []

    def note(
        _: object, __: object, ___: object, ____: object, place: object, labels: object
    ) -> None:
        raw.append((place, labels))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label, "with_solved", note)
        labels = label_conformers(z, positions, config, spin=spin)
    solved = None
    for i, (place, of_batch) in enumerate(raw[:3]):
        solved = with_solved(solved, basis, lowdin[[i]], T[[i]], place, of_batch)
    assert solved is not None
    C, n = predicted_orbitals(basis, noccupied, solved, lowdin, T, positions, basis.nao)
    C, n = C.reshape(4, -1, *C.shape[-2:]), n.reshape(4, -1, n.shape[-1])
    exact = labels.density[:, None]
    if labels.spin is not None:
        unpaired = labels.spin.spin_density[:, None]
        exact = np.concatenate([exact + unpaired, exact - unpaired], axis=1) / 2
    for i in range(4):
        for s in range(1 + spin):
            D = (C[i, s] * n[i, s]) @ C[i, s].T
            occupied = C[i, s][:, : noccupied[s]]
            np.testing.assert_allclose(
                occupied.T @ S[i] @ occupied, np.eye(noccupied[s]), atol=1e-9
            )
            assert np.einsum("ij,ji", D, S[i]) == pytest.approx(noccupied[s] * (2 - spin), abs=1e-9)
            # The ridge keeps weights off one and zero; a conformer that is new is farther off.
            if i < 3:
                np.testing.assert_allclose(D, exact[i, s], atol=5e-3)


@pytest.mark.parametrize("batch_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fewer_cycles_to_the_same_energies(
    monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    z, positions = vibrating("CCO", 5)
    config = DFTConfig(basis="sto-3g", functional="hf", precision="float64", conv_tol=1e-9)
    warm = label_conformers(z, positions, config, batch_size=batch_size)
    without = cold(monkeypatch, z, positions, config, batch_size=batch_size)
    # The first batch has nothing to start from.
    np.testing.assert_array_equal(warm.iterations[:batch_size], without.iterations[:batch_size])
    assert warm.iterations.sum() < without.iterations.sum() - 2
    np.testing.assert_allclose(warm.energy, without.energy, rtol=0, atol=1e-8)


def test_which_starts_are_those_of_orbitals() -> None:
    """DIIS drops the Fock matrix of superposed atoms, and keeps that of orbitals."""
    z, positions = vibrating("CO", 1)
    config = DFTConfig(basis="sto-3g", functional="hf")
    labels = label_conformers(z, positions, config)
    basis = build_basis(z, config.basis)
    S = libcint_integrals(basis, positions).overlap
    # One electron each.
    solved = 0.5 * labels.density[0]
    superposed = 0.5 * minao_density(z, basis, positions, S)[0]
    assert is_idempotent(jnp.asarray(solved), jnp.asarray(S[0]))
    assert is_idempotent(jnp.stack([solved, solved]), jnp.asarray(S[0]))
    assert not is_idempotent(jnp.asarray(superposed), jnp.asarray(S[0]))
    assert not is_idempotent(jnp.asarray(1.001 * solved), jnp.asarray(S[0]))


def test_open_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    z, positions = vibrating("C[CH2]", 5)
    config = DFTConfig(basis="sto-3g", functional="hf", precision="float64", conv_tol=1e-9)
    warm = label_conformers(z, positions, config, spin=1)
    without = cold(monkeypatch, z, positions, config, spin=1)
    assert warm.iterations.sum() < without.iterations.sum() - 2
    np.testing.assert_allclose(warm.energy, without.energy, rtol=0, atol=1e-8)
    assert warm.spin is not None
    assert without.spin is not None
    np.testing.assert_allclose(warm.spin.spin_square, without.spin.spin_square, atol=1e-4)


def test_factors_keep_their_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer orbitals are occupied than the minao guess has, but as many are given."""
    z, positions, _ = embed("C=O", nconf=2)
    widths = []
    arrays = label.conformer_arrays

    def note(*args: np.ndarray) -> object:
        widths.append(args[-1].shape)
        return arrays(*args)

    monkeypatch.setattr(label, "conformer_arrays", note)
    config = DFTConfig(basis="6-31g", functional="hf")
    labels = label_conformers(z, positions, config, integral_engine=cholesky_integrals)
    assert labels.converged.all()
    assert labels.iterations[1] < labels.iterations[0]
    assert widths[0] == widths[1]


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_conformer_harms_no_later_one(bad: int) -> None:
    """Two nuclei on top of each other; neither does it start nor do others start from it."""
    z, positions, _ = embed("CCO", nconf=3)
    broken = positions.copy()
    broken[bad, 0] = broken[bad, 1]
    config = DFTConfig(basis="sto-3g", functional="hf", precision="float64", conv_tol=1e-9)
    good = label_conformers(z, positions, config)
    labels = label_conformers(z, broken, config)
    np.testing.assert_array_equal(labels.converged, np.arange(3) != bad)
    others = labels.converged
    np.testing.assert_allclose(labels.energy[others], good.energy[others], rtol=0, atol=1e-8)
