"""Which rows of a store came from which input, and which molecules of two inputs are the same."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from qmgen.dataset import Dataset, Provenance, StoreMetadata
from qmgen.dataset.metadata import Part, SourceFile

# Positions that agree to this many decimals of a Bohr are the same geometry.
_POSITION_DECIMALS = 3
DUPLICATE = "duplicate of a molecule of the dataset"
NO_SPINS = (
    "open shell, and the dataset has no labels of spins; make a dataset of it with qmgen generate "
    "and join both with qmgen merge"
)
REFUSALS = (DUPLICATE, NO_SPINS)
"""Why molecules are not appended to a dataset, as its failures say it."""


@dataclass(frozen=True)
class Segment:
    """Rows of a store that came from one run."""

    dataset: Dataset
    part: Part
    molecules: range
    failures: range


def parts_of(metadata: StoreMetadata) -> tuple[Part, ...]:
    """Parts of a store; of one that a single run made, that run."""
    provenance = metadata.provenance
    return metadata.parts or (
        Part(
            created=metadata.created,
            source=provenance.source,
            versions=provenance.versions,
            hardware=provenance.hardware,
            command=provenance.command,
            counts=metadata.counts,
            duplicates=0,
        ),
    )


def rows_of_parts(metadata: StoreMetadata) -> Iterator[tuple[Part, range, range]]:
    """Each part of a store with its rows of molecules and of failures."""
    molecule, failure = 0, 0
    for part in parts_of(metadata):
        molecules = range(molecule, molecule + part.counts.molecules - part.duplicates)
        failures = range(failure, failure + part.counts.failures + part.duplicates)
        yield part, molecules, failures
        molecule, failure = molecules.stop, failures.stop


def segments(dataset: Dataset) -> Iterator[Segment]:
    """Rows of each part of a store."""
    return (Segment(dataset, *rows) for rows in rows_of_parts(dataset.metadata))


def joined_provenance(origins: Sequence[Provenance], command: str) -> Provenance:
    """Provenance of several inputs of one configuration together."""
    changes: dict[str, Any] = {"command": command}
    if len(origins) > 1:
        names = dict.fromkeys(name for origin in origins for name in origin.versions)
        found = {
            name: dict.fromkeys(o.versions.get(name, "unknown") for o in origins) for name in names
        }
        sums = " ".join(origin.source.sha256 for origin in origins)
        changes["versions"] = {name: ", ".join(several) for name, several in found.items()}
        changes["source"] = SourceFile(
            name=" + ".join(origin.source.name for origin in origins),
            sha256=hashlib.sha256(sums.encode()).hexdigest(),
            bytes=sum(origin.source.bytes for origin in origins),
        )
        if any(origin.hardware != origins[0].hardware for origin in origins):
            changes["hardware"] = None
    return origins[0].model_copy(update=changes)


def has_geometries(source: str) -> bool:
    """Whether an input file of this name states the positions of its molecules' atoms."""
    return bool({suffix.lower() for suffix in Path(source).suffixes[-2:]} & {".sdf", ".xyz"})


def smiles_identity(smile: str, charge: int, spin: int) -> str:
    """What makes molecules that were given as SMILES the same."""
    return f"{smile} charge {charge} spin {spin}"


def geometry_identity(
    z: UInt8[np.ndarray, " nat"], positions: Float[np.ndarray, "nat 3"], charge: int, spin: int
) -> str:
    """What makes molecules that were given with positions (Bohr) the same."""
    # Adding zero turns -0.0 into 0.0.
    rounded = np.round(positions, _POSITION_DECIMALS) + 0.0
    digest = hashlib.sha256(z.tobytes() + rounded.astype("<f8").tobytes())
    return f"geometry {digest.hexdigest()} charge {charge} spin {spin}"


def identity_digest(identity: str) -> bytes:
    """Sixteen bytes that stand for an identity."""
    return hashlib.sha256(identity.encode()).digest()[:16]
