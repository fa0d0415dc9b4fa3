"""London dispersion by Grimme's D3(BJ) and D4, from the libraries of their authors.

It is an addition of its own to an energy of Kohn-Sham or Hartree-Fock, with parameters fitted to
the functional; it knows nothing of the density.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from qmgen.errors import ConfigError, MissingExtraError, UnsupportedMoleculeError

DispersionModel = Literal["d3bj", "d4"]

PACKAGE_OF: dict[DispersionModel, str] = {"d3bj": "dftd3", "d4": "dftd4"}
"""Distribution that computes a model."""

_TITLES = {"d3bj": "D3(BJ)", "d4": "D4"}
# The published parameters are those of B3LYP, whichever VWN correlation is in it.
_FITTED_AS = {"b3lyp5": "b3lyp", "b3lypg": "b3lyp"}


@dataclass(frozen=True, eq=False)
class Dispersion:
    """Dispersion energy of one conformer, Hartree, and its gradient, Hartree / Bohr."""

    energy: float
    gradient: Float[np.ndarray, "nat 3"]


def parameter_name(functional: str) -> str:
    """Name under which the libraries know a functional: b3lyp5 and b3lypg go as b3lyp."""
    return _FITTED_AS.get(functional, functional)


def check_dispersion(model: DispersionModel, functional: str) -> None:
    """Check, before any work, that a functional's dispersion can be computed.

    Raises
    ------
    MissingExtraError
        The library is not installed.
    ConfigError
        It has no parameters for the functional.
    """
    _damping(model, functional)


def dispersion(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nat 3"],
    model: DispersionModel,
    functional: str,
    charge: int = 0,
) -> Dispersion:
    """Dispersion energy and gradient of one geometry.

    D3(BJ) is that of Grimme, Ehrlich and Goerigk, J. Comput. Chem. 32, 1456 (2011),
    without the three-body term, as PySCF and most programs mean the name; by the library
    simple-dftd3. D4 is that of Caldeweyher et al., J. Chem. Phys. 150, 154122 (2019), with the
    three-body term; by the library dftd4.

    Parameters
    ----------
    atomic_numbers, positions
        Of the molecule; Bohr.
    model
        d3bj or d4.
    functional
        The engine's name of it; b3lyp5 and b3lypg take the parameters of b3lyp.
    charge
        Of the molecule, elementary charges; D3 doesn't depend on it.

    Raises
    ------
    MissingExtraError
        The library is not installed.
    ConfigError
        It has no parameters for the functional.
    UnsupportedMoleculeError
        It does not know an element, or atoms coincide.
    """
    damping = _damping(model, functional)
    arguments: dict[str, Any] = {} if model == "d3bj" else {"charge": float(charge)}
    try:
        system = _library(model).DispersionModel(atomic_numbers, positions, **arguments)
        result = system.get_dispersion(damping, grad=True)
    except RuntimeError as error:
        raise UnsupportedMoleculeError(
            f"no {_TITLES[model]} dispersion for this molecule: {error}"
        ) from error
    return Dispersion(float(result["energy"]), np.asarray(result["gradient"]))


def _damping(model: DispersionModel, functional: str) -> Any:
    """Library's object with a functional's parameters."""
    library = _library(model)
    kind = library.RationalDampingParam if model == "d3bj" else library.DampingParam
    try:
        return kind(method=parameter_name(functional), atm=model == "d4")
    except RuntimeError as error:
        raise ConfigError(
            f"{_TITLES[model]} has no parameters for functional {functional}: choose another "
            "functional, such as pbe or b3lyp, or leave labels.dispersion out"
        ) from error


def _library(model: DispersionModel) -> Any:
    # Optional, so not loaded before somebody asks for it.
    package = PACKAGE_OF[model]
    try:
        return import_module(f"{package}.interface")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{_TITLES[model]} dispersion needs the package {package}: "
            "pip install 'qmgen[dispersion]'"
        ) from error
