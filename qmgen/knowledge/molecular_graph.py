"""The knowledge graph of a dataset: molecules, what they consist of, and what was computed."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from qmgen.dataset import Dataset
from qmgen.dataset.dataset_card import level_of_theory
from qmgen.dataset.export import SYMBOLS
from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph, graph_from_names
from qmgen.molecules import fragments, similar_pairs
from qmgen.units import DEBYE_PER_ATOMIC_UNIT, EV_PER_HARTREE

Reduction = Literal["lowest", "mean"]

FROM_SMILES = ("has_scaffold", "has_ring", "has_group", "has_element", "similar_to")
"""Relations that can be computed, so that the graph lacks no edge of them."""
FINGERPRINT = "Morgan fingerprints of radius 2 with 2048 bits"
# Column of the store, what it is, and the factor to the unit that its name ends with.
_QUANTITIES = {
    "energy_hartree": ("energy", "total energy in Hartree", 1.0),
    "homo_ev": ("homo", "energy of the highest occupied orbital in eV", EV_PER_HARTREE),
    "lumo_ev": ("lumo", "energy of the lowest empty orbital in eV", EV_PER_HARTREE),
    "gap_ev": ("gap", "HOMO-LUMO gap in eV", EV_PER_HARTREE),
    "dipole_debye": ("dipole", "size of the dipole moment in Debye", DEBYE_PER_ATOMIC_UNIT),
}
_BINNED = {"gap_ev": ("gap", "eV"), "dipole_debye": ("dipole", "Debye")}
_REDUCTIONS = {
    "lowest": "of the converged conformer of lowest energy",
    "mean": "mean over converged conformers",
}
_BLOCK_ROWS = 65_536


def molecular_graph(
    dataset: Dataset,
    *,
    conformers: Reduction = "lowest",
    similarity: float = 0.6,
    bins: int = 8,
) -> KnowledgeGraph:
    """Build the knowledge graph of a dataset's molecules.

    Entities are molecules, scaffolds, rings, functional groups, elements and bins of the gap and of
    the dipole moment, named ``molecule:CCO``, ``ring:c1ccccc1`` and so on. Edges are has_scaffold,
    has_ring, has_group, has_element, gap_bin, dipole_bin and similar_to from molecules, and
    has_ring from scaffolds. A molecule without SMILES is named by its row and has only elements and
    bins. Molecules without any labelled conformer are not in the graph.

    Parameters
    ----------
    dataset
        Store; labels of conformers whose SCF did not converge are left out.
    conformers
        Which number stands for a molecule: that of its converged conformer of lowest energy, or
        the mean over converged conformers. Rows with the same SMILES are one molecule.
    similarity
        Smallest Tanimoto similarity of fingerprints for similar_to, which goes both ways.
    bins
        Bins of the gap and of the dipole moment, with about as many molecules each; fewer where
        many values are the same to a hundredth.

    Raises
    ------
    InputError
        The dataset has no conformers, or an argument is out of range.
    MoleculeParseError
        RDKit can't parse a SMILES of the dataset.
    """
    if conformers not in _REDUCTIONS:
        raise InputError(f"conformers must be one of {', '.join(_REDUCTIONS)}, not {conformers!r}")
    if bins < 2:
        raise InputError(f"there must be at least 2 bins, not {bins}")
    names, elements, rows = _read(dataset)
    if not names:
        raise InputError(f"{dataset.path} has no conformers; generate or import labels first")
    values = {
        name: _reduced(rows["entity"], rows[name], rows["energy_hartree"], len(names), conformers)
        for name in _QUANTITIES
    }
    molecules = [f"molecule:{name}" for name in names]
    kinds = dict.fromkeys(molecules, "molecule")
    edges: list[tuple[str, str, str]] = []

    def connect(head: str, relation: str, kind: str, name: str, prefix: str) -> None:
        tail = f"{prefix}:{name}"
        kinds[tail] = kind
        edges.append((head, relation, tail))

    for molecule, name, symbols in zip(molecules, names, elements, strict=True):
        for symbol in symbols:
            connect(molecule, "has_element", "element", symbol, "element")
        if name.startswith("row "):
            continue
        parts = fragments(name)
        if parts.scaffold:
            connect(molecule, "has_scaffold", "scaffold", parts.scaffold, "scaffold")
        for ring in parts.rings:
            connect(molecule, "has_ring", "ring", ring, "ring")
            # A scaffold has its molecules' rings. RDKit can't read every scaffold that it writes.
            connect(f"scaffold:{parts.scaffold}", "has_ring", "ring", ring, "ring")
        for group in parts.groups:
            connect(molecule, "has_group", "functional group", group, "group")
    for quantity, (prefix, unit) in _BINNED.items():
        labels = _bin_labels(values[quantity], bins, unit)
        for i in np.flatnonzero(np.isfinite(values[quantity])).tolist():
            connect(molecules[i], f"{prefix}_bin", f"{prefix} bin", labels[i], prefix)
    written = [i for i, name in enumerate(names) if not name.startswith("row ")]
    pairs, _ = similar_pairs([names[i] for i in written], similarity)
    for i, j in pairs.tolist():
        one, other = molecules[written[i]], molecules[written[j]]
        edges += [(one, "similar_to", other), (other, "similar_to", one)]
    return graph_from_names(
        [head for head, _, _ in edges],
        [relation for _, relation, _ in edges],
        [tail for _, _, tail in edges],
        kinds,
        _described(dataset, molecules, values, conformers),
        (
            f"similar_to joins molecules whose {FINGERPRINT} have a Tanimoto similarity of at "
            f"least {similarity:g}, in both directions; across random splits such edges leak.",
            "Scaffolds, rings, groups, elements and similar_to follow from SMILES; all are there.",
        ),
    )


def _described(
    dataset: Dataset, molecules: list[str], values: Mapping[str, np.ndarray], conformers: str
) -> dict[str, tuple[str, dict[str, float]]]:
    theory = level_of_theory(dataset.metadata.provenance)
    described = {}
    for name, numbers in values.items():
        known = np.isfinite(numbers)
        if known.any():
            text = f"{_QUANTITIES[name][1]}, {_REDUCTIONS[conformers]}, {theory}"
            pairs = zip(molecules, numbers.tolist(), known.tolist(), strict=True)
            described[name] = text, {molecule: x for molecule, x, given in pairs if given}
    return described


def _read(dataset: Dataset) -> tuple[list[str], list[list[str]], dict[str, np.ndarray]]:
    """Names of the molecules, their elements, and for each conformer its molecule and numbers."""
    number: dict[str, int] = {}
    elements: list[list[str]] = []
    entity_of: dict[int, int] = {}
    entities: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _QUANTITIES}
    wanted = ("molecule", "smile", "z", "converged", *(c for c, _, _ in _QUANTITIES.values()))
    for block in dataset.iter_blocks(_BLOCK_ROWS, converged_only=False, columns=wanted):
        molecule = block["molecule"]
        for i in np.flatnonzero(np.diff(molecule, prepend=-1)).tolist():
            name = str(block["smile"][i]) or f"row {molecule[i]}"
            if name not in number:
                number[name] = len(number)
                z = block["z"][block.atom_offset[i] : block.atom_offset[i + 1]]
                elements.append([str(SYMBOLS[k]) for k in np.unique(z)])
            entity_of[int(molecule[i])] = number[name]
        entities.append(np.array([entity_of[m] for m in molecule.tolist()], dtype=np.int64))
        for name, (column, _, factor) in _QUANTITIES.items():
            columns[name].append(
                np.where(block["converged"], factor * _sizes(block[column]), np.nan)
            )
    rows = {name: np.concatenate([np.empty(0), *parts]) for name, parts in columns.items()}
    return list(number), elements, {"entity": np.concatenate([np.empty(0, int), *entities]), **rows}


def _sizes(values: np.ndarray) -> Float[np.ndarray, " n"]:
    numbers = np.asarray(values, dtype=np.float64)
    return numbers if numbers.ndim == 1 else np.linalg.norm(numbers, axis=1)


def _reduced(
    entity: Int64[np.ndarray, " rows"],
    values: Float[np.ndarray, " rows"],
    energies: Float[np.ndarray, " rows"],
    count: int,
    conformers: str,
) -> Float[np.ndarray, " molecules"]:
    result = np.full(count, np.nan)
    if conformers == "lowest":
        known: Bool[np.ndarray, " rows"] = np.isfinite(energies)
        # The lowest of each molecule comes last and stays.
        order = np.flatnonzero(known)[np.argsort(-energies[known], kind="stable")]
        result[entity[order]] = values[order]
        return result
    known = np.isfinite(values)
    number = np.bincount(entity[known], minlength=count)
    total = np.bincount(entity[known], weights=values[known], minlength=count)
    result[number > 0] = total[number > 0] / number[number > 0]
    return result


def _bin_labels(values: Float[np.ndarray, " n"], bins: int, unit: str) -> list[str]:
    known = values[np.isfinite(values)]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.unique(np.round(np.quantile(known, inner), 2)) if known.size else np.empty(0)
    texts = [f"{edge:.2f}" for edge in edges]
    if not texts:
        return ["" for _ in values]
    labels = [f"below {texts[0]} {unit}"]
    labels += [f"{low} to {high} {unit}" for low, high in pairwise(texts)]
    labels.append(f"{texts[-1]} {unit} and more")
    # NaN, which has no bin, falls in the last one; its label is not used.
    return [labels[i] for i in np.searchsorted(edges, values, side="right").tolist()]
