"""The list of a store's files, by which a truncated store is told from a whole one.

Zarr reads a missing shard as fill values, so damage would pass for data. The list lies in the
attributes of an empty group ``manifest``: a plain JSON file at the root would make Zarr warn about
an unknown member.
"""

import json
import os
from pathlib import Path
from typing import Any

import zarr

from qmgen.dataset.provenance import file_sha256
from qmgen.errors import StoreError

GROUP = "manifest"


def write_manifest(root: Path, group: zarr.Group) -> None:
    """List every file below `root` with its size and checksum, and flush all of it to disk.

    Raises
    ------
    OSError
        A file can't be read or written.
    """
    files = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            fsync(path)
            files[path.relative_to(root).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
    group.create_group(
        GROUP,
        attributes={"description": "sizes and SHA-256 of the store's other files", "files": files},
    )
    fsync(root / GROUP / "zarr.json")
    for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
        fsync(path)


def read_manifest(root: Path) -> dict[str, dict[str, Any]]:
    """Sizes (bytes) and checksums of the store's files, by path relative to `root`.

    Raises
    ------
    StoreError
        The list is missing or damaged.
    """
    path = root / GROUP / "zarr.json"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["attributes"]["files"]
        return {name: {"bytes": e["bytes"], "sha256": e["sha256"]} for name, e in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(root, path, "missing or damaged") from error


def check_sizes(root: Path, files: dict[str, dict[str, Any]]) -> None:
    """Check that every file is there with its recorded size.

    Raises
    ------
    StoreError
        A file is missing or of another size.
    """
    for name, entry in files.items():
        try:
            size = (root / name).stat().st_size
        except OSError as error:
            raise damaged(root, root / name, "missing") from error
        if size != entry["bytes"]:
            raise damaged(root, root / name, f"{size} bytes long instead of {entry['bytes']}")


def check_sums(root: Path, files: dict[str, dict[str, Any]]) -> None:
    """Check every file's checksum; reads the whole store.

    Raises
    ------
    StoreError
        A file is missing or its content has changed.
    """
    for name, entry in files.items():
        try:
            actual = file_sha256(root / name)
        except OSError as error:
            raise damaged(root, root / name, "missing or unreadable") from error
        if actual != entry["sha256"]:
            raise damaged(root, root / name, "not what was written (its SHA-256 differs)")


def damaged(root: Path, path: Path, what: str) -> StoreError:
    """Error for a store with a bad file."""
    return StoreError(
        f"the dataset {root} is damaged: {path} is {what}; copy the store again from an intact "
        "one, or delete it and run qmgen generate again"
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
