"""Settings of a Kohn-Sham or Hartree-Fock calculation."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qmgen.dft.basis import basis_content
from qmgen.dft.functionals import canonical_functional, get_functional


class DFTConfig(BaseModel):
    """Level of theory and convergence of one SCF calculation.

    Two configurations that compare equal give the same labels; the configuration is saved with
    the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    functional: str = Field(
        "b3lyp",
        description="Exchange-correlation functional: hf, svwn, blyp, pbe, revpbe (Zhang-Yang), "
        "pbe0, b3lyp (VWN-RPA, as PySCF >= 2.3), b3lyp5 (VWN5, as QM1B), b3lypg (VWN3, as "
        "Gaussian) or wb97x (range-separated).",
    )
    basis: str = Field(
        "sto-3g",
        min_length=1,
        description="Name of a basis known to PySCF or the Basis Set Exchange; or the path of a "
        "file in NWChem or Gaussian 94 format, from the working directory, whose text then stands "
        "here instead.",
    )
    cartesian: tuple[Annotated[int, Field(ge=2, le=6)], ...] = Field(
        (),
        description="Angular momenta whose shells are Cartesian, all others being pure "
        "(spherical): [2] is Gaussian's 6D 7F. What a basis file says of this is not used.",
    )
    two_electron: Literal["exact", "density_fitting"] = Field(
        "exact",
        description="exact holds all two-electron integrals of a small molecule and a Cholesky "
        "decomposition of a large one's, which changes total energies by less than 2e-7 Hartree; "
        "density_fitting approximates them through an auxiliary basis.",
    )
    auxiliary_basis: str | None = Field(
        None,
        min_length=1,
        description="Basis of density_fitting, given as the orbital basis is. Default: PySCF's "
        "choice for the orbital basis.",
    )
    grid_level: int = Field(3, ge=0, le=9, description="PySCF's integration grid level.")
    precision: Literal["mixed", "float64", "float32"] = Field(
        "mixed",
        description="Precision of the Fock builds. mixed has float32 where its rounding does not "
        "reach the result, which is that of float64 within 1e-7 Hartree. float32 has it everywhere "
        "but in sums of energies and, where integrals are factors, in one build at the end, and a "
        "looser convergence: energies within 5e-5 Hartree, frontier orbital energies within 5e-4. "
        "Open shells are float64 in any case.",
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
        description="Energy change at convergence, Hartree. Default 1e-10, which leaves errors of "
        "1e-6 Hartree in orbital energies and 1e-5 Debye in dipoles; 1e-5 in float32, which leaves "
        "1e-2 Debye.",
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
    def _basis_content(cls, value: str) -> str:
        return basis_content(value)

    @field_validator("auxiliary_basis")
    @classmethod
    def _auxiliary_basis_content(cls, value: str | None) -> str | None:
        return None if value is None else basis_content(value)

    @model_validator(mode="after")
    def _auxiliary_basis_is_used(self) -> "DFTConfig":
        if self.auxiliary_basis is not None and self.two_electron != "density_fitting":
            raise ValueError(
                "auxiliary_basis is only used with two_electron: density_fitting; set that, or "
                "leave auxiliary_basis out"
            )
        return self

    @model_validator(mode="after")
    def _long_range_exchange_is_exact(self) -> "DFTConfig":
        functional = get_functional(self.functional)
        if functional.long_range_exchange and self.two_electron == "density_fitting":
            raise ValueError(
                f"{self.functional} is a range-separated hybrid, whose long-range exchange is not "
                "fitted: choose two_electron: exact or another functional"
            )
        return self

    @field_validator("cartesian")
    @classmethod
    def _in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @property
    def energy_tolerance(self) -> float:
        """Energy change at convergence that is in force, Hartree."""
        if self.conv_tol is not None:
            return self.conv_tol
        # An orbital gradient of 3e-3 in float32: energies of 192 conformers of three GDB9 molecules
        # (B3LYP/STO-3G) were then at most 2.0e-5 Ha off, frontier orbital energies 1.7e-4, dipoles
        # 1.3e-2 Debye; with 1e-2 2.8e-5, 7e-4 and 5e-2 for half a cycle less.
        return 1e-5 if self.precision == "float32" else 1e-10

    @property
    def gradient_tolerance(self) -> float:
        """Norm of the orbital gradient at convergence, Hartree; the square root as in PySCF.

        In float32 rounding alone leaves about 1e-4.
        """
        floor = 1e-3 if self.precision == "float32" else 0.0
        return max(float(self.energy_tolerance**0.5), floor)
