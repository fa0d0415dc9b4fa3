"""Settings of a Kohn-Sham or Hartree-Fock calculation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from qmgen.dft.basis import check_basis_name
from qmgen.dft.functionals import canonical_functional


class DFTConfig(BaseModel):
    """Level of theory and convergence of one restricted SCF calculation.

    Two configurations that compare equal give the same labels; the configuration is saved with
    the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    functional: str = Field(
        "b3lyp",
        description="Exchange-correlation functional: hf, svwn, pbe, pbe0, b3lyp (VWN-RPA, as "
        "PySCF >= 2.3), b3lyp5 (VWN5, as QM1B) or b3lypg (VWN3, as Gaussian).",
    )
    basis: str = Field(
        "sto-3g",
        min_length=1,
        description="Name of a basis known to PySCF or the Basis Set Exchange; spherical.",
    )
    grid_level: int = Field(3, ge=0, le=9, description="PySCF's integration grid level.")
    precision: Literal["float64", "float32"] = Field(
        "float64",
        description="Precision of the SCF cycles. With float32 the final energy and orbital "
        "energies are still assembled in float64 from the float32 density.",
    )
    criterion: Literal["energy_change", "energy_std"] = Field(
        "energy_change",
        description="energy_change stops a conformer once energy change and orbital gradient "
        "are below conv_tol and its square root; energy_std runs exactly max_cycle cycles and "
        "accepts a conformer by the spread of its last five energies, as QM1B does.",
    )
    conv_tol: float | None = Field(
        None,
        gt=0,
        description="Energy change at convergence, Hartree. Default 1e-10 in float64, which "
        "leaves errors of 1e-6 Hartree in orbital energies and 1e-5 Debye in dipoles, and 1e-6 "
        "in float32, on top of the rounding of a molecule's energy.",
    )
    energy_std_tol_ev: float = Field(
        0.01, gt=0, description="Largest accepted standard deviation of the last five energies, eV."
    )
    max_cycle: int = Field(50, ge=5, le=1000, description="Largest number of SCF cycles.")
    diis_space: int = Field(8, ge=2, le=20, description="Fock matrices kept for DIIS.")
    level_shift: float = Field(
        0.3,
        ge=0,
        description="Shift of the virtual orbitals in the second attempt, which conformers that "
        "did not converge in the first one get, Hartree. 0 with damping 0: no second attempt.",
    )
    damping: float = Field(
        0.5, ge=0, lt=1, description="Share of the previous Fock matrix in the second attempt."
    )

    @field_validator("functional")
    @classmethod
    def _known_functional(cls, value: str) -> str:
        return canonical_functional(value)

    @field_validator("basis")
    @classmethod
    def _known_basis(cls, value: str) -> str:
        check_basis_name(value)
        return value

    @property
    def energy_tolerance(self) -> float:
        """Energy change at convergence that is in force, Hartree."""
        if self.conv_tol is not None:
            return self.conv_tol
        return 1e-10 if self.precision == "float64" else 1e-6

    @property
    def gradient_tolerance(self) -> float:
        """Norm of the orbital gradient at convergence, Hartree; the square root as in PySCF.

        In float32 rounding alone leaves about 1e-4.
        """
        floor = 0.0 if self.precision == "float64" else 1e-3
        return max(float(self.energy_tolerance**0.5), floor)
