"""Finds what is damaged in a store, to the byte, and which molecules that affects."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qmgen.dataset.damage import (
    CHANGED,
    EXTRA,
    DamagedFile,
    Rows,
    affected_molecules,
    lost_rows,
    unreadable_files,
    with_rows,
)
from qmgen.dataset.gather import read_span
from qmgen.dataset.invariants import contradictions
from qmgen.dataset.manifest import (
    MANIFEST,
    SEALED_SINCE,
    FileEntry,
    Files,
    Listing,
    Manifest,
    found_files,
    has_grown,
    listing_of,
    manifest_bytes,
    parse_manifest,
    without_seal,
)
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import open_array, open_arrays, parse_metadata, read_metadata
from qmgen.dataset.places import Place, place_of
from qmgen.dataset.schema import store_groups
from qmgen.errors import StoreError, StoreIncompleteError, StoreUnreachableError

_SCAN = 1 << 18


class AffectedMolecule(NamedTuple):
    """A molecule to be made again; what can't be read of it is None.

    ``line`` is its line or record number in the input file.
    """

    row: int
    line: int | None
    smile: str | None


@dataclass(frozen=True)
class Verification:
    """Outcome of `verify_store`.

    Attributes
    ----------
    path : Place
        Where the store is.
    metadata : StoreMetadata or None
        What the store says about itself; None if neither of its two copies can be read.
    files : int
        Files that were read, the manifest included.
    size : int
        Their size (bytes).
    damaged : tuple of DamagedFile
        Files that are missing, changed, or not the store's.
    contradictions : tuple of str
        What can't be right although every file is what was written; looked for only where no file
        is damaged.
    molecules : tuple of Rows
        Rows of molecules that some damaged file holds values of, ascending.
    limits : tuple of str
        What could not be checked.
    """

    path: Place
    metadata: StoreMetadata | None
    files: int
    size: int
    damaged: tuple[DamagedFile, ...]
    contradictions: tuple[str, ...]
    molecules: tuple[Rows, ...]
    limits: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Folder of a store that is on this machine."""
        assert isinstance(self.path, Path)
        return self.path

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.damaged and not self.contradictions

    @property
    def num_molecules(self) -> int:
        """Number of affected molecules."""
        return sum(stop - start for start, stop in self.molecules)

    def affected(self) -> Iterator[AffectedMolecule]:
        """Go over the affected molecules."""
        for start, stop in self.molecules:
            for first in range(start, stop, _SCAN):
                last = min(stop, first + _SCAN)
                columns = (self._column(name, first, last) for name in ("line", "smile"))
                for row, line, smile in zip(range(first, last), *columns, strict=True):
                    yield AffectedMolecule(row, line, smile)

    def _column(self, name: str, start: int, stop: int) -> list[Any]:
        """Values of molecules, with None for those in damaged chunks."""
        values: list[Any] = [None] * (stop - start)
        assert self.metadata is not None
        field = store_groups(version=self.metadata.schema_version)["molecules"][name]
        try:
            array = open_array(self.path, "molecules", field, self.metadata.counts)
        except StoreUnreachableError:
            raise
        except StoreError:
            # Listed as damaged already.
            return values
        bad = lost_rows(self.damaged, f"molecules/{name}")
        step = array.chunks[0]
        for first in range(start - start % step, stop, step):
            low, high = max(first, start), min(first + step, stop)
            if not any(r.start < high and low < r.stop for r in bad):
                values[low - start : high - start] = read_span(array, low, high).tolist()
        return values


def verify_store(path: str | os.PathLike[str]) -> Verification:
    """Compare every byte of a store with what was written; reads the whole store.

    Where nothing is damaged, also checks that the arrays agree with each other.

    Parameters
    ----------
    path : path
        Folder of the store, or its URL.

    Raises
    ------
    StoreIncompleteError
        The run that makes the store has not finished.
    StoreError
        There is no store, a newer qmgen wrote it, or a file can't be read at all.
    """
    place = place_of(path)
    manifest, content = _manifest(place)
    if manifest is None and not (place / "zarr.json").is_file():
        # Explains what there is instead of a store.
        read_metadata(place)
    try:
        found = found_files(place)
    except StoreUnreachableError:
        raise
    except OSError as error:
        raise StoreError(f"{place} can't be read: {error}; check permissions and disk") from error
    metadata = stored_metadata(place, manifest)
    sealed = metadata is None or metadata.schema_version >= SEALED_SINCE
    damaged, limits = [], []
    listing = Listing(found, {}, {}) if manifest is None else listing_of(place, manifest)
    if manifest is None or (sealed and not manifest.intact):
        problem = "missing" if not content else "unreadable" if manifest is None else CHANGED
        damaged.append(DamagedFile(MANIFEST, problem))
        if metadata is not None and is_remade(content, found, metadata):
            listing = Listing(found, {}, {})
        else:
            limits.append("as the manifest is damaged, other files can't be told for certain")
            if manifest is None and metadata is not None:
                damaged += unreadable_files(place, metadata)
    elif not sealed:
        limits.append("a dataset of this version has no checksum of its manifest")
    files = _compare(listing, found)
    damaged += files if metadata is None else with_rows(place, metadata, files)
    wrong: tuple[str, ...] = ()
    if not damaged and metadata is not None:
        try:
            arrays = open_arrays(place, metadata, listing.lengths)
            wrong = tuple(contradictions(metadata, arrays, set(listing.files)))
        except StoreUnreachableError:
            raise
        except StoreError as error:
            wrong = (str(error),)
    return Verification(
        path=place,
        metadata=metadata,
        files=len(found) + (place / MANIFEST).is_file(),
        size=sum(entry.bytes for entry in found.values()) + len(content),
        damaged=tuple(damaged),
        contradictions=wrong,
        molecules=() if metadata is None else affected_molecules(place, metadata, damaged),
        limits=tuple(limits),
    )


def _manifest(path: Place) -> tuple[Manifest | None, bytes]:
    """Content of the manifest; None if it can't be made sense of."""
    try:
        content = (path / MANIFEST).read_bytes()
    except StoreUnreachableError:
        raise
    except OSError:
        # The caller reports it as missing.
        return None, b""
    try:
        return parse_manifest(content), content
    except ValueError:
        return None, content


def stored_metadata(path: Place, manifest: Manifest | None) -> StoreMetadata | None:
    """Metadata of the copy that is intact: the manifest's if that is, else the root's.

    Raises
    ------
    StoreIncompleteError, StoreError
        A newer qmgen wrote the store.
    """
    if manifest is not None and has_grown(path, manifest):
        return read_metadata(path)
    if manifest is not None and manifest.intact:
        return parse_metadata(path, manifest.metadata)
    try:
        return read_metadata(path)
    except (StoreIncompleteError, StoreUnreachableError):
        raise
    except StoreError:
        # The root file's checksum tells, too.
        if manifest is None or manifest.metadata is None:
            return None
    try:
        return parse_metadata(path, manifest.metadata)
    except StoreError:
        return None


def root_attributes(metadata: StoreMetadata) -> dict[str, Any]:
    """Attributes of the root group, without what a later version of qmgen has added."""
    return metadata.model_dump(mode="json", exclude_unset=True)


def is_remade(content: bytes, found: Files, metadata: StoreMetadata) -> bool:
    """Whether the files that are there would get just the manifest that was written.

    Either it would have the checksum that the damaged one states of itself, or nothing but that
    checksum is damaged.
    """
    new = manifest_bytes(found, root_attributes(metadata))
    seal = parse_manifest(new).seal
    return (seal or "").encode() in content or without_seal(new) == without_seal(content)


def _compare(listing: Listing, found: Files) -> Iterator[DamagedFile]:
    missing = FileEntry(-1, "")
    for name in sorted({*listing.files, *found}):
        if listing.fits(name, found.get(name)):
            continue
        was, now = listing.files.get(name, missing), found.get(name, missing)
        if now is missing:
            yield DamagedFile(name, "missing")
        elif was is missing:
            yield DamagedFile(name, EXTRA)
        elif now.bytes != was.bytes:
            yield DamagedFile(name, f"{now.bytes} bytes long instead of {was.bytes}")
        else:
            yield DamagedFile(name, CHANGED)
