"""When integrals are native, and labels from them against those from libcint's."""

import numpy as np
import pytest

from qmgen.dft import sizes
from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.label import label_conformers
from qmgen.dft.native_integrals import (
    FEW,
    MANY,
    Lanes,
    native_engine,
    native_pays,
    native_plan,
)
from tests.dft.systems import embed
from tests.dft.test_electron_repulsion import WATER, waters


@pytest.mark.parametrize("lanes", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_more_conformers_than_lanes(lanes: Lanes) -> None:
    basis, positions = build_basis(WATER, "sto-3g"), waters(lanes.number + 3)
    assert native_plan(basis, positions, "float64").lanes == lanes
    native = native_engine(native_plan(basis, positions, "float64"))(basis, positions)
    libcint = libcint_integrals(basis, positions)
    assert native.eri.shape == libcint.eri.shape
    # The screening's 1e-11 Ha, and float32's rounding of integrals below 1e-4 Ha.
    assert np.abs(native.eri - libcint.eri).max() < 1e-10
    np.testing.assert_array_equal(native.overlap, libcint.overlap)


def test_few_conformers_are_left_to_libcint() -> None:
    basis = build_basis(WATER, "sto-3g")
    for lanes in (FEW, MANY):
        positions = waters(lanes.least)
        plan = native_plan(basis, positions, "mixed")
        assert plan.lanes == lanes
        few = positions[:-1]
        integrals = native_engine(plan)(basis, few)
        np.testing.assert_array_equal(integrals.eri, libcint_integrals(basis, few).eri)
    assert not native_pays(basis, FEW.least - 1)
    assert native_pays(basis, FEW.least)


@pytest.mark.parametrize(
    ("basis", "pays"), [("sto-3g", True), ("6-31g", True), ("6-31g*", False), ("cc-pvdz", False)]
)
def test_bases_that_pay(basis: str, pays: bool) -> None:
    z, _, _ = embed("CO")
    assert native_pays(build_basis(z, basis), 1000) == pays


@pytest.mark.parametrize(
    ("precision", "lanes", "tolerance"),
    # Integrals' errors of 1e-8 Ha, of both signs, times electron pairs; rounding.
    [
        pytest.param("mixed", MANY, 1e-6, marks=pytest.mark.slow),
        pytest.param("float64", MANY, 1e-9, marks=pytest.mark.slow),
        ("mixed", FEW, 1e-9),
    ],
)
def test_labels_are_those_with_libcint(precision: str, lanes: Lanes, tolerance: float) -> None:
    positions = waters(lanes.least)
    config = DFTConfig(functional="hf", basis="sto-3g", precision=precision)
    basis = build_basis(WATER, config.basis)
    engine, at_a_time = sizes.default_engine(
        basis, positions, sizes.program_shape(WATER, config), config
    )
    assert engine is not libcint_integrals
    assert at_a_time == lanes.number
    native = label_conformers(WATER, positions, config)
    libcint = label_conformers(WATER, positions, config, integral_engine=libcint_integrals)
    assert native.converged.all()
    assert np.abs(native.energy - libcint.energy).max() < tolerance
    # Beside the integrals' errors, convergence to an orbital gradient of 1e-5.
    assert np.abs(native.orbital_energies - libcint.orbital_energies).max() < 1e-6
    assert np.abs(native.dipole - libcint.dipole).max() < 1e-5
    if precision == "mixed" and lanes == MANY:
        assert (native.energy != libcint.energy).any()
