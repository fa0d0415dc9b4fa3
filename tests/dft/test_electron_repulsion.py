"""Native two-electron integrals against libcint's.

A program depends on kinds of shells and the number of conformers, and takes seconds to compile:
molecules with s and sp shells, 8 conformers, share theirs between tests.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.dft import electron_repulsion as electron_repulsion_module
from qmgen.dft.basis import Basis, basis_from_shells, build_basis
from qmgen.dft.boys import boys
from qmgen.dft.electron_repulsion import (
    NEGLIGIBLE_INTEGRAL,
    RepulsionPlan,
    electron_repulsion,
    plan_repulsion,
)
from qmgen.dft.hermite import hermite_coulomb, powers_up_to
from qmgen.dft.integrals import two_electron_integrals
from qmgen.dft.native_integrals import FEW
from qmgen.dft.repulsion_class import hermite_coulomb_closed
from tests.dft.systems import embed

# Rounding of sums of up to 10^4 terms.
ROUNDING = 1e-12
# What is asked of integrals by default: the screening's 1e-11 Ha, and rounding in float32 of what
# is below 1e-4 Ha.
TOLERANCE = 1e-10
# Of float32, relative to the estimate of an integral that decides on its precision.
SINGLE_ROUNDING = 3e-7
WATER = np.array([8, 1, 1], np.int32)
LANES = FEW.number
SHELLS = {
    "s": [[0, [0.8, 1.0]]],
    # General contractions.
    "ss": [[0, [3.0, 0.3, 0.8], [0.6, 0.7, -0.4]]],
    "p": [[1, [0.9, 0.6], [0.2, 0.5]]],
    "d": [[2, [1.3, 0.5], [0.35, 0.6]]],
    "f": [[3, [0.9, 1.0]]],
}


def two_atoms(a: str, b: str, cartesian: tuple[int, ...] = ()) -> tuple[Basis, np.ndarray]:
    """An atom with some shells, another one with others, and 8 conformers in Bohr."""
    z = np.array([1, 2], np.int32)
    positions = np.random.default_rng(3).normal(scale=1.2, size=(8, 2, 3))
    return basis_from_shells(z, {1: SHELLS[a], 2: SHELLS[b]}, cartesian), positions


def waters(nconf: int = LANES) -> np.ndarray:
    """Water with random displacements, Bohr."""
    equilibrium = np.array([[0, 0, 0.2], [0, 1.4, -0.9], [0, -1.4, -0.9]])
    return equilibrium + np.random.default_rng(1).normal(scale=0.3, size=(nconf, 3, 3))


def error(basis: Basis, positions: np.ndarray, plan: RepulsionPlan) -> np.ndarray:
    """Difference from libcint, (nconf, neri)."""
    eri = electron_repulsion(plan, positions)
    return np.asarray(eri) - two_electron_integrals(basis, positions)


def estimates(basis: Basis, plan: RepulsionPlan) -> np.ndarray:
    """What the plan takes each distinct integral to be below, Hartree."""
    bound = np.zeros(basis.nao * (basis.nao + 1) // 2)
    for pairs in plan.classes:
        n = int(np.count_nonzero(pairs.nprim))
        high, low = pairs.orbitals[:n].max(-1), pairs.orbitals[:n].min(-1)
        bound[high * (high + 1) // 2 + low] = pairs.bound[:n, None]
    return np.outer(bound, bound)[np.tril_indices(len(bound))]


def test_s_and_p() -> None:
    basis, positions = two_atoms("ss", "p")
    plan = plan_repulsion(basis, positions, single_below=0.0)
    assert np.abs(error(basis, positions, plan)).max() < ROUNDING


@pytest.mark.slow
def test_shells_that_share_exponents() -> None:
    basis, positions = build_basis(WATER, "sto-3g"), waters()
    exact = plan_repulsion(basis, positions, single_below=0.0)
    assert {work.kind.precision for work in exact.work} == {"float64"}
    # Core orbitals' integrals are up to 5 Ha.
    assert np.abs(error(basis, positions, exact)).max() < 10 * ROUNDING


@pytest.mark.parametrize(
    ("second", "side_by_side"), [("ss", 2), pytest.param("p", 128, marks=pytest.mark.slow)]
)
def test_blocks_side_by_side(second: str, side_by_side: int) -> None:
    """The way of devices with many lanes gives what the way of a core gives."""
    basis, positions = two_atoms("ss", second)
    plan = plan_repulsion(basis, positions, single_below=0.0)
    side = electron_repulsion(plan, positions, side_by_side)
    assert isinstance(side, jax.Array)
    # Rounding.
    np.testing.assert_allclose(side, electron_repulsion(plan, positions), rtol=0, atol=1e-14)


@pytest.mark.slow
def test_small_integrals_in_single_precision() -> None:
    basis, positions = build_basis(WATER, "sto-3g"), waters()
    single = plan_repulsion(basis, positions, single_below=np.inf)
    assert {work.kind.precision for work in single.work} == {"float32"}
    off = np.abs(error(basis, positions, single)).max(axis=0)
    assert (off < SINGLE_ROUNDING * estimates(basis, single) + ROUNDING).all()
    assert off.max() > ROUNDING

    # Hydrogen so far away that its pairs with oxygen are small.
    far = positions + np.array([[0, 0, 0], [0, 10, 0], [0, -10, 0]])
    both = plan_repulsion(basis, far)
    assert {work.kind.precision for work in both.work} == {"float32", "float64"}
    assert np.abs(error(basis, far, both)).max() < TOLERANCE


@pytest.mark.slow
def test_coincident_centres() -> None:
    basis, positions = build_basis(WATER, "sto-3g"), waters()
    positions[::2, 1] = positions[::2, 0]
    positions[3::4, 2] = positions[3::4, 1]
    plan = plan_repulsion(basis, positions, single_below=0.0)
    assert np.abs(error(basis, positions, plan)).max() < 10 * ROUNDING


def test_far_apart_pairs_are_left_out_within_the_threshold() -> None:
    z = np.array([8, 1, 1, 1], np.int32)
    basis, near = build_basis(z, "sto-3g"), np.zeros((LANES, 4, 3))
    near[:, :3] = waters()
    near[:, 3] = [2.0, 0, 0]
    far = near.copy()
    far[:, 3, 0] += np.linspace(30, 60, LANES)
    plans = [plan_repulsion(basis, x, single_below=0.0) for x in (near, far)]
    in_near, in_far = (sum(len(work.target) for work in plan.work) for plan in plans)
    assert in_far < in_near
    # Each integral left out is below the threshold.
    off = np.abs(error(basis, far, plans[1])).max()
    assert off < NEGLIGIBLE_INTEGRAL


def test_a_plan_holds_for_some_of_its_conformers() -> None:
    basis, positions = build_basis(WATER, "sto-3g"), waters(2 * LANES)
    positions[LANES:] *= 4.0
    plan = plan_repulsion(basis, positions)
    for part in (positions[:LANES], positions[LANES:]):
        assert np.abs(error(basis, part, plan)).max() < TOLERANCE


@pytest.mark.parametrize("cartesian", [(), pytest.param((2,), marks=pytest.mark.slow)])
def test_d_shells_in_programs_of_low_order(cartesian: tuple[int, ...]) -> None:
    """(ds|ss) and (ds|ds); the others take a minute to compile."""
    basis, positions = two_atoms("s", "d", cartesian)
    plan = plan_repulsion(basis, positions, single_below=0.0)
    low = tuple(
        w for w in plan.work if max(w.kind.bra.max_l, w.kind.ket.max_l) == w.kind.bra.max_l == 2
    )
    off = error(basis, positions, replace(plan, work=low))
    places = np.concatenate([work.target for work in low])
    # Cartesian orbitals of a d shell are not of norm 1.
    assert np.abs(off[:, places]).max() < ROUNDING
    assert len(np.unique(places)) > basis.nao


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b", "cartesian", "single_below"),
    [
        ("s", "d", (), 0.0),
        ("p", "d", (2,), 0.0),
        ("s", "d", (), np.inf),
        ("s", "f", (), 0.0),
        ("s", "f", (3,), 0.0),
    ],
)
def test_high_angular_momenta(
    a: str, b: str, cartesian: tuple[int, ...], single_below: float
) -> None:
    """Minutes to compile."""
    basis, positions = two_atoms(a, b, cartesian)
    plan = plan_repulsion(basis, positions, single_below)
    off = np.abs(error(basis, positions, plan)).max(axis=0)
    bound = SINGLE_ROUNDING * estimates(basis, plan) if single_below else 0.0
    assert (off < bound + ROUNDING).all()


def test_hermite_integrals_written_out_equal_those_by_recursion() -> None:
    rng = np.random.default_rng(0)
    x, y, z = jnp.asarray(rng.normal(size=(3, 5)))
    a = jnp.asarray(rng.uniform(0.3, 2.0, size=5))
    order = 6
    F = boys(a * (x * x + y * y + z * z), order)
    recursion = hermite_coulomb(F, a, (x, y, z))
    scaled = [f * (-2 * a) ** n for n, f in enumerate(F)]
    for powers in powers_up_to(order):
        closed = hermite_coulomb_closed(powers, scaled, (x, y, z))
        np.testing.assert_allclose(closed, recursion[powers], rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("single_below", [1e-4, 1.0])
@pytest.mark.parametrize("most_pairs", [497, 40])
def test_each_integral_has_one_place(
    single_below: float, most_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A derivative would count twice what has two, in other blocks or another precision."""
    monkeypatch.setattr(electron_repulsion_module, "_MOST_PAIRS", most_pairs)
    z, positions, _ = embed("CC(C=O)OC=N", 2)
    basis = build_basis(z, "sto-3g")
    plan = plan_repulsion(basis, positions, single_below)
    targets = np.concatenate([work.target for work in plan.work])
    assert len(np.unique(targets)) == len(targets)
    assert len({work.kind.precision for work in plan.work}) == 2
    kinds = {pairs.kind for pairs in plan.classes}
    assert (len(plan.classes) > len(kinds)) == (most_pairs == 40)
    # None but those that are negligible is left out.
    largest = np.abs(two_electron_integrals(basis, positions)).max(axis=0)
    largest[targets] = 0
    assert largest.max() < NEGLIGIBLE_INTEGRAL


def test_classes_that_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    basis, positions = build_basis(WATER, "sto-3g"), waters()
    whole = electron_repulsion(plan_repulsion(basis, positions, single_below=0.0), positions)
    monkeypatch.setattr(electron_repulsion_module, "_MOST_PAIRS", 2)
    plan = plan_repulsion(basis, positions, single_below=0.0)
    assert len(plan.classes) > 3
    # Sums within a block are the same, whichever block a pair is in.
    np.testing.assert_allclose(electron_repulsion(plan, positions), whole, atol=1e-14)
