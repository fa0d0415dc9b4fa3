"""The Hamiltonian of a conformer, which its Fock matrices come from, of integrals and positions."""

import jax.numpy as jnp

from qmgen.dft.config import DFTConfig
from qmgen.dft.functionals import get_functional
from qmgen.dft.grid_orbitals import place_orbitals
from qmgen.dft.hamiltonian import Hamiltonian
from qmgen.dft.program_arrays import ConformerArrays, MoleculeTables
from qmgen.dft.properties import nuclear_repulsion
from qmgen.dft.range_separation import spin_supermatrix, total_supermatrix
from qmgen.dft.sizes import GRID_BLOCK
from qmgen.dft.unrestricted import SpinHamiltonian

# The Hamiltonian, and that of builds in float32 where others are in float64.
BuiltHamiltonian = tuple[Hamiltonian | SpinHamiltonian, Hamiltonian | None]


def build_hamiltonian(
    config: DFTConfig, tables: MoleculeTables, conformer: ConformerArrays
) -> BuiltHamiltonian:
    """Hamiltonian of one conformer, with a copy in float32 where builds are in both precisions.

    Write the single case here; callers map it over a batch.

    Parameters
    ----------
    config
        Level of theory and precision (static).
    tables
        Of the molecule.
    conformer
        Integrals and positions of the conformer, without the batch's axis.
    """
    functional = get_functional(config.functional)
    closed = not tables.noccupied.ndim
    # Factors keep a build in float64, as their sums are longer.
    single_only = closed and config.precision == "float32" and conformer.eri is not None
    dtype = jnp.float32 if single_only else jnp.float64
    eri, eri_long_range = (
        None if integrals is None else integrals.astype(dtype)
        for integrals in (conformer.eri, conformer.eri_long_range)
    )
    nao = conformer.hcore.shape[0]
    long_range = conformer.factors_long_range if eri is None else eri_long_range
    if functional.long_range_exchange and long_range is None:
        raise ValueError(
            f"{functional.name} needs integrals of erf(ω r)/r, which the integral engine lacks: "
            "use qmgen.dft.range_separation.range_separated_engine"
        )
    total = None if eri is None else total_supermatrix(functional, eri, eri_long_range, nao)
    orbitals = (
        None
        if tables.grid is None
        else place_orbitals(tables.orbitals, tables.grid, conformer.positions, GRID_BLOCK, dtype)
    )
    repulsion = nuclear_repulsion(tables.charges, conformer.positions)
    if not closed:
        of_spins = SpinHamiltonian(
            hcore=conformer.hcore,
            total_supermatrix=total,
            spin_supermatrix=None
            if eri is None
            else spin_supermatrix(functional, eri, eri_long_range, nao),
            factors=conformer.factors,
            factors_long_range=conformer.factors_long_range,
            orbitals=orbitals,
            nuclear_repulsion=repulsion,
        )
        return of_spins, None
    hamiltonian = Hamiltonian(
        hcore=conformer.hcore,
        supermatrix=total,
        factors=conformer.factors,
        orbitals=orbitals,
        nuclear_repulsion=repulsion,
        factors_long_range=conformer.factors_long_range,
    )
    if config.precision == "float64":
        return hamiltonian, None
    single = hamiltonian.in_single_precision()
    return (single, None) if single_only else (hamiltonian, single)
