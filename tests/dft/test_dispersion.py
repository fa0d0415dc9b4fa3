"""Dispersion against the libraries' published values, PySCF's own build and finite differences."""

import sys
from typing import Any

import numpy as np
import pytest
from pyscf.dispersion import dftd3, dftd4

from qmgen.dft.dispersion import DispersionModel, check_dispersion, dispersion
from qmgen.dft.functionals import FUNCTIONAL_NAMES
from qmgen.errors import ConfigError, MissingExtraError, UnsupportedMoleculeError
from tests.dft.systems import embed, pyscf_molecule

MODELS: tuple[DispersionModel, ...] = ("d3bj", "d4")
REFERENCES = {"d3bj": dftd3.DFTD3Dispersion, "d4": dftd4.DFTD4Dispersion}

# Molecules of the libraries' own tests, from the set of mindless molecules (Korth and Grimme,
# J. Chem. Theory Comput. 5, 993 (2009)); Bohr.
MINDLESS_D3 = (
    [1, 1, 6, 5, 1, 15, 8, 17, 13, 15, 5, 1, 9, 15, 1, 15],
    [
        [2.79274810283778, 3.82998228828316, -2.79287054959216],
        [-1.43447454186833, 0.43418729987882, 5.53854345129809],
        [-3.26268343665218, -2.50644032426151, -1.56631149351046],
        [2.14548759959147, -0.88798018953965, -2.24592534506187],
        [-4.30233097423181, -3.93631518670031, -0.48930754109119],
        [0.0610764356488, -3.82467931731366, -2.22333344469482],
        [0.41168550401858, 0.58105573172764, 5.56854609916143],
        [4.41363836635653, 3.92515871809283, 2.57961724984],
        [1.337077589987, 1.40194471661647, 1.97530004949523],
        [3.08342709834868, 1.72520024666801, -4.42666116106828],
        [-3.02346932078505, 0.04438199934191, -0.2763619742501],
        [1.11508390868455, -0.97617412809198, 6.2546284771818],
        [0.61938955433011, 2.17903547389232, -6.21279842416963],
        [-2.67491681346835, 3.00175899761859, 1.05038813614845],
        [-4.13181080289514, -2.3422673986366, -3.44356159392859],
        [2.85007173009739, -2.648848927576, 0.71010806424206],
    ],
)
MINDLESS_D4 = (
    [1, 9, 15, 13, 1, 1, 13, 5, 3, 15, 8, 1, 1, 5, 16, 1],
    [
        [-2.14132037405479, -1.34402701877044, -2.32492500904728],
        [4.46671289205392, -2.0480011052483, 0.44422406067087],
        [-4.92212517643478, -1.73734240529793, 0.9689032382145],
        [-1.30966093045696, -0.52977363497805, 3.44453452239668],
        [-4.34208759006189, -4.30470270977329, 0.39887431726215],
        [0.61788392767516, 2.62484136683297, -3.28228926932647],
        [4.2356287344484, -1.68839322682951, -3.53824299552792],
        [2.23130060612446, 1.93579813100155, -1.80384647554323],
        [-2.32285463652832, 2.90603947535842, -1.39684847191937],
        [2.3455794157825, 2.86074312333371, 1.82827238641666],
        [-3.66431367659153, -0.42910188232667, -1.81957402856634],
        [-0.34927881505446, -1.7598813400394, 5.98017466326572],
        [0.29500802281217, -2.00226104143537, 0.53023447931897],
        [2.10449364205058, -0.56741404446633, 0.30975625014335],
        [-1.59355304432499, 3.69176153150419, 2.87878226787916],
        [4.3485870025605, 2.3917147811344, -2.61802993563738],
    ],
)


@pytest.mark.parametrize(
    ("model", "functional", "molecule", "energy", "rounding"),
    [
        # test_pbe0_d3_bj of simple-dftd3's interface, which itself checks to six digits
        ("d3bj", "pbe0", MINDLESS_D3, -0.029589132634178342, 3e-8),
        # test_pbed4 of dftd4's interface, which itself checks to 1e-7
        ("d4", "pbe", MINDLESS_D4, -0.028415184156428127, 1e-7),
    ],
)
def test_energy_equals_the_published_one(
    model: DispersionModel, functional: str, molecule: Any, energy: float, rounding: float
) -> None:
    z, positions = map(np.array, molecule)
    assert dispersion(z, positions, model, functional).energy == pytest.approx(energy, abs=rounding)


# Functionals that were fitted; the local density approximation was not.
@pytest.mark.parametrize("functional", ["hf", "pbe", "pbe0", "b3lyp"])
@pytest.mark.parametrize(("smiles", "charge"), [("c1ccoc1", 0), ("[O-]C=O", -1), ("C[NH3+]", 1)])
@pytest.mark.parametrize("model", MODELS)
def test_energy_and_gradient_equal_pyscf(
    model: DispersionModel, functional: str, smiles: str, charge: int
) -> None:
    """PySCF carries its own build and calls it in another way."""
    z, positions, _ = embed(smiles)
    found = dispersion(z, positions[0], model, functional, charge)
    mol = pyscf_molecule(z, positions[0], "sto-3g", charge)
    reference = REFERENCES[model](mol, xc=functional).get_dispersion(grad=True)
    # Rounding, and what releases of the libraries differ in.
    assert found.energy == pytest.approx(reference["energy"], abs=1e-9)
    np.testing.assert_allclose(found.gradient, reference["gradient"], atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_gradient_equals_finite_differences(model: DispersionModel) -> None:
    z, positions, _ = embed("CC(=O)[O-]")
    found = dispersion(z, positions[0], model, "b3lyp", -1).gradient
    step = 1e-3
    numerical = np.zeros_like(found)
    for place in np.ndindex(found.shape):
        energies = []
        for sign in (1, -1):
            moved = positions[0].copy()
            moved[place] += sign * step
            energies.append(dispersion(z, moved, model, "b3lyp", -1).energy)
        numerical[place] = (energies[0] - energies[1]) / (2 * step)
    # Third derivatives of 1e-2 Hartree / Bohr^3 at most, times the squared step.
    np.testing.assert_allclose(found, numerical, atol=1e-8)
    assert np.abs(found).max() > 1e-5


def test_only_d4_depends_on_the_charge() -> None:
    z, positions, _ = embed("C[NH3+]")
    for model, differs in (("d3bj", False), ("d4", True)):
        energies = {dispersion(z, positions[0], model, "pbe", q).energy for q in (0, 1)}
        assert (len(energies) == 2) == differs


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variant", ["b3lyp5", "b3lypg"])
def test_variants_of_b3lyp_share_its_parameters(model: DispersionModel, variant: str) -> None:
    z, positions, _ = embed("CCO")
    assert (
        dispersion(z, positions[0], model, variant).energy
        == dispersion(z, positions[0], model, "b3lyp").energy
    )


@pytest.mark.parametrize("model", MODELS)
def test_functionals_without_parameters_are_refused(model: DispersionModel) -> None:
    with pytest.raises(ConfigError, match="no parameters for functional svwn: choose another"):
        check_dispersion(model, "svwn")
    for functional in {*FUNCTIONAL_NAMES} & {"hf", "pbe", "pbe0", "b3lyp", "b3lyp5", "b3lypg"}:
        check_dispersion(model, functional)


@pytest.mark.parametrize("model", MODELS)
def test_molecules_that_the_library_refuses_are_told(model: DispersionModel) -> None:
    with pytest.raises(UnsupportedMoleculeError, match=r"dispersion for this molecule: .*istance"):
        dispersion(np.array([1, 1]), np.zeros((2, 3)), model, "pbe")


@pytest.mark.parametrize("model", MODELS)
def test_missing_library_says_what_to_install(
    model: DispersionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dftd3", "dftd4"):
        monkeypatch.setitem(sys.modules, f"{name}.interface", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qmgen\[dispersion\]'"):
        check_dispersion(model, "pbe")
