"""What operands of Fock builds lose, and how a build in float64 and builds of changes mend it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qmgen.dft.config import DFTConfig
from qmgen.dft.precision import double_precision

FOLDER = Path(__file__).parents[2] / "benchmarks" / "efficiency"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark's script as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("dft_precision", FOLDER / "dft_precision.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dft_precision", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_energy_errors_of_water(study: ModuleType) -> None:
    config = DFTConfig(
        basis="sto-3g",
        functional="b3lyp",
        precision="float64",
        two_electron="exact",
        grid_level=0,
    )
    problem = study.problem_of("O", config)
    names = ("float32", "TF32", "bfloat16")
    chosen = {name: study.ROUNDINGS[name] for name in names}
    errors = study.energy_errors([problem], chosen, "all")
    # Some 80 Hartree of products, each term off by half of the last of 24, 11 and 8 bits at most.
    for name, bits in zip(names, (24, 11, 8), strict=True):
        assert errors[name].alone < 80 * 2.0**-bits
    # At the density found the energy is stationary, so its error goes with the square.
    for error in errors.values():
        assert error.one_build < 0.1 * error.alone
        assert error.changes < 0.1 * error.alone
    assert errors["float32"].changes < 1e-10
    with double_precision():
        exact = study.energies_in(problem, study.EXACT, "all")
        assert abs(exact.alone - exact.changes) < 1e-10
