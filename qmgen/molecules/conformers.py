"""Conformers of a molecule from its SMILES and a seed."""

import hashlib
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign

from qmgen.errors import ConformerError
from qmgen.molecules.deduplicate import molecule_key
from qmgen.molecules.molecule import Molecule
from qmgen.molecules.rdkit_log import captured_errors, log_lines
from qmgen.molecules.smiles import atomic_numbers, parse_smiles

# Attempts at one conformer. RDKit's default grows with the molecule, and its time limit would make
# the outcome depend on the machine's load; a fixed count bounds hopeless molecules to seconds and
# gives the same conformers everywhere.
_MAX_ATTEMPTS = 100
# A molecule of which none of so many conformers can be embedded is given up.
_MAX_PROBES = 8
_MAX_MMFF_STEPS = 2000
_MAX_SYMMETRY_MATCHES = 1000
_RATTLE_STREAM = 1


class ConformerConfig(BaseModel):
    """How conformers are made from a SMILES."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_molecule: int = Field(
        default=8, ge=1, le=1000, description="Conformers asked for per molecule; fewer may result."
    )
    relax: Literal["none", "mmff94"] = Field(
        default="none",
        description="Force field that relaxes each embedded conformer. A geometry that the input "
        "gives is never relaxed.",
    )
    rmsd_prune_angstrom: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Drop a conformer whose heavy-atom RMSD, symmetry considered, to one already "
        "kept is below this, Angstrom. Applied after relaxation.",
    )
    rattle_angstrom: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Standard deviation of Gaussian noise added to each coordinate, Angstrom. "
        "With a geometry from the input, the first conformer stays exact and per_molecule - 1 "
        "rattled copies follow.",
    )


def conformer_seed(run_seed: int, smiles: str) -> int:
    """Derive one molecule's seed, which no other molecule of the run has a part in.

    Returns
    -------
    int
        In 1..2**31-2. RDKit seeds conformer i with (i + 1) * seed modulo 2**31-1, so 0 and
        2**31-1 would make all conformers of a molecule identical; -1 would be random.
    """
    digest = hashlib.sha256(f"{run_seed}\n{smiles}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**31 - 2) + 1


def embed_conformers(
    molecule: Molecule, config: ConformerConfig, run_seed: int
) -> Float[np.ndarray, "nconf nat 3"]:
    """Make conformers with ETKDGv3; the same arguments give the same bits.

    Riniker, Landrum, J. Chem. Inf. Model. 55, 2562 (2015); Wang et al., J. Chem. Inf. Model. 60,
    2044 (2020). In order: embedding, relaxation, pruning, rattling. A molecule that brings its
    geometry gets exactly that one, and ``per_molecule - 1`` rattled copies after it if
    `rattle_angstrom` is positive.

    Parameters
    ----------
    molecule : Molecule
        Its `atomic_numbers` give the order of atoms.
    config : ConformerConfig
        Number and treatment of conformers.
    run_seed : int
        Seed of the whole run; `conformer_seed` makes the molecule's from it.

    Returns
    -------
    (nconf, nat, 3) float64
        Angstrom; 1 <= nconf <= per_molecule.

    Raises
    ------
    ConformerError
        Nothing could be embedded, MMFF94 lacks parameters, or this RDKit orders the atoms
        otherwise than the one that read the molecule.
    """
    given = molecule.positions_angstrom
    if given is not None:
        copies = config.per_molecule if config.rattle_angstrom > 0 else 1
        positions = np.repeat(given[np.newaxis], copies, axis=0)
        # Frames of one trajectory share their SMILES but must not share their noise.
        seed = conformer_seed(run_seed, molecule_key(molecule))
        positions[1:] += _noise(positions[1:].shape, config.rattle_angstrom, seed)
        return positions
    seed = conformer_seed(run_seed, molecule.smiles)
    mol = molecule_with_hydrogens(molecule)
    _embed(mol, molecule.smiles, config.per_molecule, seed)
    if config.relax == "mmff94":
        _relax(mol, molecule.smiles)
    kept = [conformer.GetId() for conformer in mol.GetConformers()]
    if config.rmsd_prune_angstrom is not None:
        kept = _distinct(mol, kept, config.rmsd_prune_angstrom)
    positions = np.array([mol.GetConformer(i).GetPositions() for i in kept], dtype=np.float64)
    if not np.isfinite(positions).all():
        raise ConformerError(f"{molecule.smiles}: embedding gave coordinates that are not finite")
    if config.rattle_angstrom > 0:
        positions += _noise(positions.shape, config.rattle_angstrom, seed)
    return positions


def _noise(
    shape: tuple[int, ...], standard_deviation: float, seed: int
) -> Float[np.ndarray, "nconf nat 3"]:
    generator = np.random.default_rng([seed, _RATTLE_STREAM])
    return generator.normal(scale=standard_deviation, size=shape)


def molecule_with_hydrogens(molecule: Molecule) -> Any:
    """RDKit's molecule with all atoms, in the order of `Molecule.atomic_numbers`.

    Raises
    ------
    ConformerError
        This RDKit can't parse the SMILES, or orders the atoms otherwise.
    """
    parsed, reason = parse_smiles(molecule.smiles)
    if parsed is None:
        raise ConformerError(f"{molecule.smiles}: this RDKit can't parse the SMILES: {reason}")
    mol = Chem.AddHs(parsed)
    if not np.array_equal(atomic_numbers(mol), molecule.atomic_numbers):
        raise ConformerError(
            f"{molecule.smiles}: this RDKit orders the atoms otherwise than the one that read the "
            "molecule; read the input again with this version"
        )
    return mol


def _embed(mol: Any, smiles: str, nconf: int, seed: int) -> None:
    """Embed in place, first from distance-matrix and then from random coordinates."""
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.numThreads = 1
    parameters.maxIterations = _MAX_ATTEMPTS
    parameters.trackFailures = True
    complaints: list[str] = []
    with captured_errors() as capture:
        for random_coordinates in (False, True):
            parameters.useRandomCoords = random_coordinates
            try:
                probe = min(nconf, _MAX_PROBES)
                if len(rdDistGeom.EmbedMultipleConfs(mol, probe, parameters)) > 0:
                    if nconf > probe:
                        rdDistGeom.EmbedMultipleConfs(mol, nconf, parameters)
                    return
            except (RuntimeError, ValueError) as error:
                complaints = [str(error).strip().splitlines()[0]]
        complaints = complaints or log_lines(capture)
    counts = list(parameters.GetFailureCounts())
    if any(counts):
        cause = rdDistGeom.EmbedFailureCauses.values[int(np.argmax(counts))].name
        reason = f"most attempts failed at {cause.lower().replace('_', ' ')}"
    else:
        reason = complaints[-1] if complaints else "RDKit gives no reason"
    raise ConformerError(
        f"{smiles}: no conformer in {_MAX_ATTEMPTS} attempts each from distances and from random "
        f"coordinates; {reason}"
    )


def _relax(mol: Any, smiles: str) -> None:
    """Minimise every conformer's MMFF94 energy in place.

    A conformer that isn't at its minimum after 2000 steps is kept: it is lower than before, and
    no label needs it to be stationary.
    """
    with captured_errors():
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            raise ConformerError(f"{smiles}: MMFF94 has no parameters for it; use relax: none")
        outcomes = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
            mol, numThreads=1, maxIters=_MAX_MMFF_STEPS, mmffVariant="MMFF94"
        )
    if any(status < 0 for status, _ in outcomes):
        raise ConformerError(f"{smiles}: MMFF94 can't be set up for it; use relax: none")


def _distinct(mol: Any, conformers: list[int], threshold_angstrom: float) -> list[int]:
    """Keep a conformer if no conformer kept before is closer than the threshold."""
    with captured_errors():
        probe = Chem.RemoveHs(mol)
        reference = Chem.Mol(probe)
        kept: list[int] = []
        for candidate in conformers:
            if all(
                rdMolAlign.GetBestRMS(
                    probe, reference, candidate, other, maxMatches=_MAX_SYMMETRY_MATCHES
                )
                >= threshold_angstrom
                for other in kept
            ):
                kept.append(candidate)
    return kept
