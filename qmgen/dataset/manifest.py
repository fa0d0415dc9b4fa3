"""The list of a store's files, by which a damaged store is told from a whole one.

Zarr reads a missing shard as fill values, so damage would pass for data. The list lies in the
attributes of an empty group ``manifest``: a plain JSON file at the root would make Zarr warn about
an unknown member.

Since version 4 of the layout the list has a checksum of itself, ``manifest_sha256``: that of its
own file with 64 zeros in the checksum's place. It also has a copy of the root's attributes. So
every byte of a store counts, and the root metadata and the list can each be rebuilt from the rest.
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
SEALED_SINCE = 4
"""Version of the layout since which the list has a checksum of itself."""

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
    """

    files: Files
    metadata: dict[str, Any] | None
    seal: str | None
    intact: bool


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
    return entries(root, [name for name in file_sizes(root) if name != MANIFEST])


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


def manifest_bytes(files: Files, metadata: Mapping[str, Any]) -> bytes:
    """Content of the manifest of some files: a function of them and the root's attributes alone."""
    content = {
        "attributes": {
            "description": "sizes and SHA-256 of the store's other files, a copy of the root's "
            "attributes, and the SHA-256 of this file with zeros in this checksum's place",
            "files": {name: files[name]._asdict() for name in sorted(files)},
            "metadata": dict(metadata),
            "manifest_sha256": _ZEROS,
        },
        "zarr_format": 3,
        "node_type": "group",
    }
    unsealed = json.dumps(content, indent=2).encode()
    return _with_seal(unsealed, hashlib.sha256(unsealed).hexdigest())


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
    )


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


def read_manifest(root: Place, version: int) -> Files:
    """Entries of a store's files.

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
    return manifest.files


def check_files(root: Place, files: Files) -> None:
    """Check every file's size, and the checksums of those that tell how to read the others.

    Raises
    ------
    StoreError
        A file is missing, of another size, or one of Zarr's metadata and changed.
    """
    # A listing tells the sizes of a thousand objects at once.
    sizes = file_sizes(root) if isinstance(root, RemotePath) else {}
    for name, entry in files.items():
        size = sizes.get(name) if isinstance(root, RemotePath) else _size(root / name)
        if size is None:
            raise damaged(root, root / name, "missing")
        if size != entry.bytes:
            raise damaged(root, root / name, f"{size} bytes long instead of {entry.bytes}")
    headers = [name for name in files if PurePosixPath(name).name == "zarr.json"]
    try:
        found = entries(root, headers)
    except StoreUnreachableError:
        raise
    except OSError as error:
        raise damaged(root, root, f"unreadable ({error})") from error
    for name in headers:
        if found[name].sha256 != files[name].sha256:
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
