"""Which molecules a network of Hamiltonians is trained and tested on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from qmgen.dataset.splits import assign_splits, split_digest
from qmgen.errors import ConformerError, InputError
from qmgen.molecules import (
    Molecule,
    RejectedRecord,
    embed_conformers,
    molecule_key,
    read_molecules,
    unsupported_reason,
)
from qmgen.training.hamiltonian.config import HamiltonianConfig


@dataclass(frozen=True)
class LeftOut:
    """A record that can't be used.

    Attributes
    ----------
    line : int
        Where it starts in the file.
    text, reason : str
        What it is, and what is wrong with it.
    """

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class TrainingMolecules:
    """Molecules of each split.

    Attributes
    ----------
    train, val, test : tuple of Molecule
        Usable ones.
    left_out : tuple of LeftOut
        All others.
    sha256 : str
        Hash of the file.
    """

    train: tuple[Molecule, ...]
    val: tuple[Molecule, ...]
    test: tuple[Molecule, ...]
    left_out: tuple[LeftOut, ...]
    sha256: str

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of the training split, ascending."""
        return tuple(sorted({int(z) for m in self.train for z in m.atomic_numbers}))


def read_training_molecules(source: str | Path, config: HamiltonianConfig) -> TrainingMolecules:
    """Read molecules, leave out what can't be used, and share the others out among splits.

    Open shells are left out, molecules without a conformer, and in validation and test those with
    elements that the training split lacks.

    Parameters
    ----------
    source : path
        File in any format of `qmgen.molecules.read_molecules`.
    config : HamiltonianConfig
        Conformers, splits, seed.

    Raises
    ------
    InputError
        The file can't be read, or a split has no molecule.
    """
    usable: list[Molecule] = []
    left_out: list[LeftOut] = []
    for record in read_molecules(source):
        if isinstance(record, RejectedRecord):
            left_out.append(LeftOut(record.line, record.text, record.reason))
        elif reason := _unusable(record, config):
            left_out.append(LeftOut(record.line, record.smiles, reason))
        else:
            usable.append(record)
    by_molecule = config.split == "molecule"
    keys = [m.smiles or molecule_key(m) if by_molecule else molecule_key(m) for m in usable]
    codes = assign_splits(keys, config.seed, config.fractions)
    parts: list[list[Molecule]] = [
        [m for m, code in zip(usable, codes, strict=True) if code == split] for split in range(3)
    ]
    # A smaller training set is part of a larger one, and mixed like the whole.
    ranked = sorted(parts[0], key=lambda m: split_digest(molecule_key(m), config.seed + 1))
    train = ranked[: config.train_records]
    known = {int(z) for m in train for z in m.atomic_numbers}
    for part in parts[1:]:
        for m in [m for m in part if not known.issuperset(m.atomic_numbers.tolist())]:
            part.remove(m)
            left_out.append(LeftOut(m.line, m.smiles, "an element that the training split lacks"))
    for name, part in zip(("train", "val", "test"), (train, *parts[1:]), strict=True):
        if not part:
            raise InputError(
                f"{source}: the {name} split has no usable molecule of {len(usable)}; give more "
                "molecules or other fractions"
            )
    return TrainingMolecules(
        train=tuple(train),
        val=tuple(parts[1]),
        test=tuple(parts[2]),
        left_out=tuple(left_out),
        sha256=hashlib.sha256(Path(source).read_bytes()).hexdigest(),
    )


def _unusable(molecule: Molecule, config: HamiltonianConfig) -> str | None:
    if reason := unsupported_reason(molecule):
        return reason
    if molecule.spin:
        return f"{molecule.spin} unpaired electrons: only closed shells can be learnt"
    try:
        embed_conformers(molecule, config.conformers, config.seed)
    except ConformerError as error:
        return str(error)
    return None
