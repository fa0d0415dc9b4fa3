"""Geometries for the engine's tests, and PySCF's answer for them.

Geometries are RDKit embeddings with a fixed seed: what matters is that both programs get the same
one, not which it is.
"""

from functools import lru_cache

import numpy as np
from pyscf import gto, scf
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from qmgen.dft.config import DFTConfig
from qmgen.dft.interop import pyscf_calculation
from qmgen.units import BOHR_PER_ANGSTROM


@lru_cache
def embed(smiles: str, nconf: int = 1) -> tuple[np.ndarray, np.ndarray, int]:
    """Atomic numbers, positions in Bohr (nconf, nat, 3) and charge."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = rdDistGeom.EmbedMultipleConfs(mol, nconf, randomSeed=17)
    assert len(ids) == nconf
    z = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int32)
    positions = np.stack([conf.GetPositions() for conf in mol.GetConformers()])
    return z, positions * BOHR_PER_ANGSTROM, Chem.GetFormalCharge(mol)


def pyscf_molecule(z: np.ndarray, positions: np.ndarray, basis: str, charge: int = 0) -> gto.Mole:
    atoms = [(int(a), tuple(p)) for a, p in zip(z, positions, strict=True)]
    return gto.M(atom=atoms, unit="Bohr", basis=basis, charge=charge, verbose=0)


def pyscf_solution(
    z: np.ndarray, positions: np.ndarray, config: DFTConfig, charge: int = 0, spin: int = 0
) -> scf.hf.SCF:
    """Converged PySCF calculation with the same options."""
    mf = pyscf_calculation(z, positions, config, charge, spin)
    # Tighter than what is compared, so that differences are not PySCF's own.
    mf.conv_tol, mf.conv_tol_grad = 1e-11, 1e-6
    mf.kernel()
    assert mf.converged
    return mf
