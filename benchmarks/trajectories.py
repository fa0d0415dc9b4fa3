"""Conformers from short molecular dynamics, for the comparison of `benchmarks/dft_loss.py`."""

from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixCom
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

SMILES = {
    "water": "O",
    "ethanol": "CCO",
    "malondialdehyde": "O=CCC=O",
    "uracil": "O=c1cc[nH]c(=O)[nH]1",
}
KELVIN = 300.0
_STEP_FS, _EVERY, _EQUILIBRATION = 0.5, 40, 2000


class MMFF(Calculator):
    """RDKit's MMFF94 as a calculator of ASE."""

    implemented_properties = ("energy", "forces")

    def __init__(self, mol: Chem.Mol) -> None:
        super().__init__()
        self._mol = mol
        self._properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Compute energy (eV) and forces (eV/Angstrom)."""
        super().calculate(atoms, properties, system_changes)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(self._mol, self._properties)
        flat = atoms.get_positions().ravel().tolist()
        kcal = units.kcal / units.mol
        gradient = np.array(field.CalcGrad(flat)).reshape(-1, 3)
        self.results = {"energy": field.CalcEnergy(flat) * kcal, "forces": -gradient * kcal}


def write_trajectory(name: str, frames: int, path: Path, seed: int = 0) -> None:
    """Write frames of Langevin dynamics at 300 K, 20 fs apart, after 1 ps without any.

    The force field is MMFF94: what matters is that geometries are those of a warm molecule, as
    networks are compared on the same ones.
    """
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[name]))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed + 1) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    atoms = Atoms(
        numbers=[atom.GetAtomicNum() for atom in mol.GetAtoms()],
        positions=mol.GetConformer().GetPositions(),
        calculator=MMFF(mol),
        constraint=FixCom(),
    )
    generator = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=KELVIN, rng=generator)
    dynamics = Langevin(
        atoms,
        _STEP_FS * units.fs,
        temperature_K=KELVIN,
        friction=0.01 / units.fs,
        rng=generator,
        fixcm=False,
    )
    dynamics.run(_EQUILIBRATION)
    kept = []
    for _ in range(frames):
        dynamics.run(_EVERY)
        frame = Atoms(atoms.numbers, atoms.get_positions())
        kept.append(frame)
    write(path, kept, format="xyz", comment=f"{name} {KELVIN:.0f} K")
