"""Parts that molecules share (scaffolds, rings, functional groups), and which ones are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from qmgen.errors import InputError
from qmgen.molecules.rdkit_log import captured_errors
from qmgen.molecules.scaffold import scaffold
from qmgen.molecules.smiles import require_smiles

FUNCTIONAL_GROUPS = {
    "alcohol": "[OX2H][CX4]",
    "phenol": "[OX2H]c",
    "enol": "[OX2H][CX3]=[CX3]",
    "ether": "[OX2]([#6;!$([CX3]=[OX1])])[#6;!$([CX3]=[OX1])]",
    "epoxide": "C1OC1",
    "aldehyde": "[CX3;H1,H2]=[OX1]",
    "ketone": "[#6][CX3](=[OX1])[#6]",
    "carboxylic acid": "[CX3](=[OX1])[OX2H]",
    "carboxylate": "[CX3](=[OX1])[OX1-]",
    "ester": "[CX3](=[OX1])[OX2][#6]",
    "amide": "[CX3](=[OX1])[NX3]",
    "nitrile": "[CX2]#[NX1]",
    "imine": "[CX3]=[NX2;!$([NX2][OX2])]",
    "oxime": "[CX3]=[NX2][OX2]",
    "primary amine": "[NX3;H2;!$(N[CX3]=[OX1,SX1,NX2]);!$(N[#7,#8,#16])][#6]",
    "secondary amine": "[NX3;H1;!$(N[CX3]=[OX1,SX1,NX2]);!$(N[#7,#8,#16])]([#6])[#6]",
    "tertiary amine": "[NX3;H0;!$(N[CX3]=[OX1,SX1,NX2]);!$(N[#7,#8,#16])]([#6])([#6])[#6]",
    "ammonium": "[NX4+]",
    "hydrazine": "[NX3][NX3]",
    "azo": "[NX2]=[NX2]",
    "nitro": "[$([NX3](=O)=O),$([NX3+](=O)[O-])]",
    "alkene": "[CX3]=[CX3]",
    "alkyne": "[CX2]#[CX2]",
    "thiol": "[SX2H]",
    "thioether": "[SX2]([#6])[#6]",
    "sulfonyl": "[SX4](=[OX1])=[OX1]",
    "fluoride": "[#6]F",
    "chloride": "[#6]Cl",
    "bromide": "[#6]Br",
    "iodide": "[#6]I",
}
"""SMARTS of functional groups; aromatic rings are none."""


@dataclass(frozen=True)
class Fragments:
    """What a molecule consists of.

    Attributes
    ----------
    scaffold
        Bemis-Murcko scaffold as SMILES; empty if the molecule has no ring.
    rings
        Smallest rings, each kind once; see `rings_of`.
    groups
        Names in `FUNCTIONAL_GROUPS`.
    """

    scaffold: str
    rings: tuple[str, ...]
    groups: tuple[str, ...]


def fragments(smiles: str) -> Fragments:
    """Give a molecule's scaffold, rings and functional groups.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse it.
    """
    mol = require_smiles(smiles)
    with captured_errors():
        groups = tuple(n for n, pattern in _patterns().items() if mol.HasSubstructMatch(pattern))
    return Fragments(scaffold(smiles), rings_of(smiles), groups)


def rings_of(smiles: str) -> tuple[str, ...]:
    """Give the kinds of ring in a molecule's smallest set of smallest rings, sorted.

    A ring is written as the canonical SMILES of its atoms and of those with a double bond to them,
    without stereochemistry; nitrogen that loses a substituent of an aromatic ring has a hydrogen
    instead, so that N-methylpyrrole holds pyrrole. A ring cut from fused aromatic rings need not be
    a molecule of its own.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse the molecule.
    """
    mol = require_smiles(smiles)
    with captured_errors():
        kinds = {_ring_smiles(mol, ring) for ring in mol.GetRingInfo().AtomRings()}
    return tuple(sorted(kinds))


def _ring_smiles(mol: Any, ring: Sequence[int]) -> str:
    kept = set(ring)
    for index in ring:
        for bond in mol.GetAtomWithIdx(index).GetBonds():
            other = bond.GetOtherAtomIdx(index)
            in_ring = mol.GetAtomWithIdx(other).IsInRing()
            if bond.GetBondType() == Chem.BondType.DOUBLE and not in_ring:
                kept.add(other)
    part = Chem.RWMol(mol)
    for atom in part.GetAtoms():
        atom.SetAtomMapNum(0)
        neighbours = {n.GetIdx() for n in atom.GetNeighbors()}
        pyrrole_like = atom.GetIsAromatic() and atom.GetAtomicNum() == 7
        if pyrrole_like and not atom.GetFormalCharge() and len(neighbours) == 3:
            atom.SetNumExplicitHs(len(neighbours - kept))
    return str(Chem.MolFragmentToSmiles(part, sorted(kept), isomericSmiles=False))


@lru_cache
def _patterns() -> dict[str, Any]:
    return {name: Chem.MolFromSmarts(smarts) for name, smarts in FUNCTIONAL_GROUPS.items()}


def similar_pairs(
    smiles: Sequence[str], cutoff: float, radius: int = 2, nbit: int = 2048
) -> tuple[Int64[np.ndarray, "n 2"], Float64[np.ndarray, " n"]]:
    """Find all pairs of molecules whose Morgan fingerprints are alike.

    Only molecules whose numbers of bits allow the cutoff are compared: Tanimoto similarity is at
    most the ratio of the smaller number to the larger one (Swamidass, Baldi, J. Chem. Inf. Model.
    47, 302 (2007)).

    Parameters
    ----------
    smiles
        Molecules.
    cutoff
        Smallest Tanimoto similarity of a pair, above 0 and up to 1.
    radius, nbit
        Of the fingerprints; see `morgan_fingerprints`.

    Returns
    -------
    pairs
        Places in `smiles`, the smaller one first, sorted.
    similarities
        Tanimoto similarity of each pair.

    Raises
    ------
    InputError
        The cutoff is out of range.
    MoleculeParseError
        RDKit can't parse a molecule.
    """
    if not 0 < cutoff <= 1:
        raise InputError(f"the cutoff of similarity must be above 0 and at most 1, not {cutoff}")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=nbit)
    bits = []
    for text in smiles:
        mol = require_smiles(text)
        with captured_errors():
            bits.append(generator.GetFingerprint(mol))
    counts = np.array([b.GetNumOnBits() for b in bits], dtype=np.int64)
    order = np.argsort(counts, kind="stable")
    by_count = [bits[i] for i in order.tolist()]
    counts = counts[order]
    # Rounding must not lose a pair at the bound.
    stops = np.searchsorted(counts, counts / cutoff * (1 + 1e-12), side="right")
    pairs, values = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for place, stop in enumerate(stops.tolist()):
        found = DataStructs.BulkTanimotoSimilarity(by_count[place], by_count[place + 1 : stop])
        similarity = np.array(found, dtype=np.float64)
        near = np.flatnonzero(similarity >= cutoff)
        others = order[place + 1 + near]
        pairs.append(np.stack([np.full(near.size, order[place]), others], axis=1))
        values.append(similarity[near])
    joined = np.sort(np.concatenate(pairs), axis=1)
    sequence = np.lexsort((joined[:, 1], joined[:, 0]))
    return joined[sequence], np.concatenate(values)[sequence]
