"""Pairs of shells: all there, sorted, and their bounds against libcint's integrals."""

import numpy as np
import pytest

from qmgen.dft.basis import build_basis
from qmgen.dft.integrals import two_electron_integrals
from qmgen.dft.repulsion_pairs import (
    PRIMITIVE_GROUP,
    PairClass,
    pad_pairs,
    pair_classes,
    shared_shells,
)
from tests.dft.systems import embed


def pair_of(pairs: PairClass) -> np.ndarray:
    """Number i (i + 1) / 2 + j of the orbitals of each product."""
    high, low = pairs.orbitals.max(-1), pairs.orbitals.min(-1)
    return high * (high + 1) // 2 + low


@pytest.mark.parametrize(
    ("smiles", "basis", "nshell"),
    [
        # Of oxygen 1s and 2sp, of each hydrogen 1s.
        ("O", "sto-3g", 4),
        # General contractions: of oxygen three s, two p, one d; of each hydrogen two s, one p.
        ("O", "cc-pvdz", 12),
        # Of carbon and oxygen 1s and 2sp.
        ("CO", "sto-3g", 8),
    ],
)
def test_every_product_of_orbitals_is_there_once(smiles: str, basis: str, nshell: int) -> None:
    z, positions, _ = embed(smiles, 2)
    orbitals = build_basis(z, basis)
    shells = shared_shells(orbitals)
    assert len(shells) == nshell
    classes = pair_classes(shells, positions, 0.0)
    # A pair of a shell with itself has both (ab| and (ba|.
    found = np.concatenate([pair_of(c).ravel() for c in classes])
    assert set(found.tolist()) == set(range(orbitals.nao * (orbitals.nao + 1) // 2))


@pytest.mark.parametrize(
    ("smiles", "basis"), [("CS", "sto-3g"), ("OP", "6-31g*"), ("O", "cc-pvtz")]
)
def test_bounds(smiles: str, basis: str) -> None:
    z, positions, _ = embed(smiles, 2)
    orbitals = build_basis(z, basis)
    npair = orbitals.nao * (orbitals.nao + 1) // 2
    diagonal = np.arange(npair) * (np.arange(npair) + 3) // 2
    exact = np.sqrt(two_electron_integrals(orbitals, positions)[:, diagonal]).max(axis=0)
    for pairs in pair_classes(shared_shells(orbitals), positions, 0.0):
        largest = exact[pair_of(pairs)].max(axis=1)
        # An estimate of what Schwarz' inequality takes, and above it.
        assert (pairs.bound > largest).all()
        groups = -(-pairs.nprim // PRIMITIVE_GROUP)
        assert (np.diff(groups) <= 0).all()
        for number in set(groups.tolist()):
            assert (np.diff(pairs.bound[groups == number]) <= 0).all()


def test_far_apart_pairs_are_left_out() -> None:
    z = np.array([8, 1, 1], np.int32)
    shells = shared_shells(build_basis(z, "sto-3g"))
    near = np.array([[0.0, 0, 0], [0, 0, 1.8], [0, 1.8, 0]])
    far = near + np.array([[0.0, 0, 0], [0, 0, 0], [0, 40.0, 0]])
    count = {
        name: sum(len(c.bound) for c in pair_classes(shells, np.array(some), 1e-11))
        for name, some in (("near", [near]), ("far", [far]), ("both", [near, far]))
    }
    # Two shells of oxygen and one of each hydrogen; the far one has a pair with itself only.
    assert count == {"near": 10, "far": 7, "both": 10}


def test_padding_adds_empty_pairs() -> None:
    z, positions, _ = embed("O")
    pairs = pair_classes(shared_shells(build_basis(z, "sto-3g")), positions, 0.0)[0]
    padded = pad_pairs(pairs, 16)
    n = len(pairs.bound)
    assert len(padded.atoms) == len(padded.orbitals) == 16
    np.testing.assert_array_equal(padded.coefficients[:n], pairs.coefficients)
    assert not padded.coefficients[n:].any()
    assert (padded.exponents[n:] > 0).all()
    assert (padded.orbitals[n:] == -1).all()
    assert not padded.nprim[n:].any()
