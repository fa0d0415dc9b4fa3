"""The list of a store's files, by which a damaged store is told from a whole one.

Zarr reads a missing shard as fill values, so damage would pass for data. The list lies in the
attributes of an empty group ``manifest``: a plain JSON file at the root would make Zarr warn about
an unknown member.

Since version 4 of the layout the list has a checksum of itself, ``manifest_sha256``: that of its
own file with 64 zeros in the checksum's place. It also has a copy of the root's attributes. So
every byte of a store counts, and the root metadata and the list can each be rebuilt from the rest.

While a store grows (`qmgen.dataset.growth`), its files change one by one. The list then has besides
what each will be, and how long the arrays were before: until the root's metadata are the new ones
the store is what it was, and from then on what it will be, whatever moment the process is killed
at.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from qmgen.dataset.places import Place, RemotePath, file_sizes
from qmgen.dataset.provenance import file_sha256
from qmgen.errors import StoreError, StoreUnreachableError

GROUP = "manifest"
MANIFEST = f"{GROUP}/zarr.json"
ROOT = "zarr.json"
SEALED_SINCE = 4
"""Version of the layout since which the list has a checksum of itself."""
GROWTH = "growth"
"""Folder of an append that is not finished; like `LOCK` it is none of the store's files."""
LOCK = "run.lock"
"""File that the process which writes the store has locked."""

_ZEROS = "0" * 64
_SEAL = re.compile(rb'"manifest_sha256": "([0-9a-f]{64})"')
_HASH = re.compile(r"[0-9a-f]{64}")


class FileEntry(NamedTuple):
    """Size (bytes) and SHA-256 (hexadecimal) of a file."""

    bytes: int
    sha256: str


Files = dict[str, FileEntry]
"""Entries of a store's files, by path relative to the store."""


@dataclass(frozen=True)
class Change:
    """How a store's files change while it grows.

    Attributes
    ----------
    files : dict of str to FileEntry
        What files will be that are new or become others.
    lengths : dict of str to int
        Length, before, of the arrays that become longer (``group/name``).
    """

    files: Files
    lengths: dict[str, int]


@dataclass(frozen=True)
class Listing:
    """What the files of a store must be at this moment.

    Attributes
    ----------
    files : dict of str to FileEntry
        Files that must be there.
    or_else : dict of str to FileEntry
        What some may be instead; those that are not in `files` may be missing.
    lengths : dict of str to int
        Length of arrays that may be longer already.
    """

    files: Files
    or_else: Files
    lengths: dict[str, int]

    def fits(self, name: str, entry: FileEntry | None) -> bool:
        """Whether a file, None if it is missing, may be what it is."""
        if entry is None:
            return name not in self.files
        return entry in (self.files.get(name), self.or_else.get(name))


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes
    ----------
    files : dict of str to FileEntry
        The store's other files.
    metadata : dict or None
        Copy of the root group's attributes; None before version 4.
    seal : str or None
        Checksum that the manifest states of itself; None before version 4, or where it is damaged.
    intact : bool
        Whether that checksum is right.
    change : Change or None
        What is being done to the store; None where nothing is.
    """

    files: Files
    metadata: dict[str, Any] | None
    seal: str | None
    intact: bool
    change: Change | None = None


def write_manifest(root: Path, metadata: Mapping[str, Any]) -> None:
    """List every file below `root` with its size and checksum, and flush all of it to disk.

    Raises
    ------
    OSError
        A file can't be read or written.
    """
    for path in root.rglob("*"):
        if path.is_file():
            fsync(path)
    (root / GROUP).mkdir()
    (root / MANIFEST).write_bytes(manifest_bytes(found_files(root), metadata))
    fsync(root / MANIFEST)
    for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
        fsync(path)


def found_files(root: Place) -> Files:
    """Sizes and checksums of the files that are there, but the manifest; reads all of them.

    Raises
    ------
    OSError
        A file can't be read.
    """
    others = (MANIFEST, LOCK)
    names = (name for name in file_sizes(root) if name not in others)
    return entries(root, [name for name in names if not name.startswith(f"{GROWTH}/")])


def entries(root: Place, names: Iterable[str]) -> Files:
    """Sizes and checksums of some files; reads them.

    Raises
    ------
    OSError
        A file can't be read.
    """
    if isinstance(root, RemotePath):
        return {name: entry_of_bytes(content) for name, content in root.read_many(names)}
    return {name: entry_of(root / name) for name in names}


def entry_of(path: Path) -> FileEntry:
    """Size and checksum of a file.

    Raises
    ------
    OSError
        It can't be read.
    """
    return FileEntry(path.stat().st_size, file_sha256(path))


def entry_of_bytes(content: bytes) -> FileEntry:
    """Size and checksum of a file's content."""
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def manifest_bytes(
    files: Files, metadata: Mapping[str, Any], change: Change | None = None
) -> bytes:
    """Content of the manifest of some files: a function of them and the root's attributes alone.

    With `change` also of what is being done to them.
    """
    attributes = {
        "description": "sizes and SHA-256 of the store's other files, a copy of the root's "
        "attributes, and the SHA-256 of this file with zeros in this checksum's place",
        "files": _plain(files),
        "metadata": dict(metadata),
        "manifest_sha256": _ZEROS,
    }
    if change is not None:
        attributes["change"] = {"files": _plain(change.files), "lengths": change.lengths}
    content = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    unsealed = json.dumps(content, indent=2).encode()
    return _with_seal(unsealed, hashlib.sha256(unsealed).hexdigest())


def _plain(files: Files) -> dict[str, dict[str, Any]]:
    return {name: files[name]._asdict() for name in sorted(files)}


def without_seal(content: bytes) -> bytes:
    """Content of a manifest with zeros in place of its checksum of itself."""
    return _with_seal(content, _ZEROS)


def _with_seal(content: bytes, seal: str) -> bytes:
    return _SEAL.sub(f'"manifest_sha256": "{seal}"'.encode(), content)


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest, whether or not its checksum of itself is right.

    Raises
    ------
    ValueError
        It holds no list of files.
    """
    try:
        attributes = json.loads(content)["attributes"]
        files = {name: _entry(name, entry) for name, entry in attributes["files"].items()}
        change = _change(attributes.get("change"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no list of files") from error
    metadata = attributes.get("metadata")
    seals = _SEAL.findall(content)
    seal = seals[0].decode() if len(seals) == 1 else None
    return Manifest(
        files,
        metadata if isinstance(metadata, dict) else None,
        seal,
        intact=seal == hashlib.sha256(without_seal(content)).hexdigest(),
        change=change,
    )


def _change(content: Any) -> Change | None:
    if content is None:
        return None
    files = {name: _entry(name, entry) for name, entry in content["files"].items()}
    lengths = {name: int(length) for name, length in content["lengths"].items()}
    return Change(files, lengths)


def listing_of(root: Place, manifest: Manifest) -> Listing:
    """What the files of a store must be, as far as a change of it has come."""
    change = manifest.change
    if change is None:
        return Listing(manifest.files, {}, {})
    if has_grown(root, manifest):
        return Listing(manifest.files | change.files, {}, {})
    or_else = {name: entry for name, entry in change.files.items() if name != ROOT}
    return Listing(manifest.files, or_else, change.lengths)


def _entry(name: str, entry: Any) -> FileEntry:
    size, digest = entry["bytes"], entry["sha256"]
    path = PurePosixPath(name)
    usable = (
        type(size) is int
        and isinstance(digest, str)
        and _HASH.fullmatch(digest) is not None
        and name.isprintable()
        and name == path.as_posix()
        and not path.is_absolute()
        and ".." not in path.parts
    )
    if not usable:
        raise ValueError(f"no usable entry {name!r}")
    return FileEntry(size, digest)


def has_grown(root: Place, manifest: Manifest) -> bool:
    """Whether the root's metadata are those after the change that the manifest tells of."""
    if manifest.change is None or ROOT not in manifest.change.files:
        return False
    try:
        return entries(root, [ROOT])[ROOT] == manifest.change.files[ROOT]
    except OSError:
        # Missing, which is damage before as after.
        return False


def read_manifest(root: Place, version: int) -> Files:
    """Entries of the files that a store must have; raises as `read_listing`."""
    return read_listing(root, version).files


def read_listing(root: Place, version: int) -> Listing:
    """What a store's files must be.

    Parameters
    ----------
    root : Place
        Where the store is.
    version : int
        Version of its layout.

    Raises
    ------
    StoreError
        The list is missing or damaged.
    """
    path = root / MANIFEST
    try:
        manifest = parse_manifest(path.read_bytes())
    except StoreUnreachableError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(root, path, "missing or damaged") from error
    if version >= SEALED_SINCE and not manifest.intact:
        raise damaged(root, path, "damaged (its checksum of itself is wrong)")
    return listing_of(root, manifest)


def check_files(root: Place, listing: Listing) -> None:
    """Check every file's size, and the checksums of those that tell how to read the others.

    Raises
    ------
    StoreError
        A file is missing, of another size, or one of Zarr's metadata and changed.
    """
    # A listing tells the sizes of a thousand objects at once.
    sizes = file_sizes(root) if isinstance(root, RemotePath) else {}
    for name, entry in listing.files.items():
        also = listing.or_else.get(name, entry)
        size = sizes.get(name) if isinstance(root, RemotePath) else _size(root / name)
        if size is None:
            raise damaged(root, root / name, "missing")
        if size not in (entry.bytes, also.bytes):
            raise damaged(root, root / name, f"{size} bytes long instead of {entry.bytes}")
    headers = [name for name in listing.files if PurePosixPath(name).name == "zarr.json"]
    try:
        found = entries(root, headers)
    except StoreUnreachableError:
        raise
    except OSError as error:
        raise damaged(root, root, f"unreadable ({error})") from error
    for name in headers:
        if not listing.fits(name, found[name]):
            raise damaged(root, root / name, "not what was written (its SHA-256 differs)")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def damaged(root: Place, path: Place, what: str) -> StoreError:
    """Error for a store with a bad file."""
    return StoreError(
        f"the dataset {root} is damaged: {path} is {what}; qmgen verify tells which molecules that "
        "affects, qmgen repair makes them again from the input file, or copy the store from an "
        "intact one"
    )


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of entries, to disk.

    Raises
    ------
    OSError
        The path can't be opened or flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
