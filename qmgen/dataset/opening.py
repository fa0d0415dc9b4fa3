"""Opens a store, or says why it can't be opened."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
import zarr

from qmgen.dataset.layout import store_layout
from qmgen.dataset.manifest import MANIFEST, ROOT, check_files, damaged, read_listing
from qmgen.dataset.metadata import Counts, StoreMetadata
from qmgen.dataset.places import Place, RemotePath
from qmgen.dataset.schema import KIND, LEVEL_LABELS, OPTIONAL, RUN_FILE, SCHEMA_VERSION, Field
from qmgen.dataset.zarr_stores import zarr_store
from qmgen.errors import StoreError, StoreIncompleteError, StoreUnreachableError

# The list of what changes, the root, and the list of the outcome.
_CHANGES = 3

Arrays = dict[str, dict[str, zarr.Array]]
"""A store's arrays by group and name."""


def open_checked(path: Place) -> tuple[StoreMetadata, Arrays]:
    """Open a store whose files are all there; reads metadata and file sizes only.

    Raises
    ------
    StoreIncompleteError
        The run that makes the store has not finished.
    StoreError
        There is no store, it is damaged, or a newer qmgen wrote it.
    """
    if isinstance(path, RemotePath):
        # Nothing grows below a URL.
        return _open_once(path)
    for _ in range(_CHANGES):
        before = _state(path)
        try:
            return _open_once(path)
        except StoreError:
            # A store that another process lets grow may have changed between two files.
            if _state(path) == before:
                raise
    return _open_once(path)


def _open_once(path: Place) -> tuple[StoreMetadata, Arrays]:
    metadata = read_metadata(path)
    listing = read_listing(path, metadata.schema_version)
    check_files(path, listing)
    return metadata, open_arrays(path, metadata, listing.lengths)


def _state(path: Path) -> list[tuple[int, int] | None]:
    """What changes whenever the root's metadata or the manifest are replaced."""
    state: list[tuple[int, int] | None] = []
    for name in (ROOT, MANIFEST):
        try:
            status = (path / name).stat()
        except OSError:
            # Missing, of which the caller says more.
            state.append(None)
        else:
            state.append((status.st_ino, status.st_mtime_ns))
    return state


def read_metadata(path: Place) -> StoreMetadata:
    """Read the root group's attributes.

    Raises
    ------
    StoreIncompleteError
        The run that makes the store has not finished.
    StoreError
        There is no store, its metadata are damaged, or a newer qmgen wrote it.
    """
    root = path / "zarr.json"
    if not root.is_file():
        if (path / RUN_FILE).is_file():
            raise StoreIncompleteError(
                f"the run that makes {path} has not finished; resume it with the same "
                "qmgen generate command"
            )
        if not path.exists():
            raise StoreError(
                f"there is no dataset at {path}; check the path, or make one with qmgen generate"
            )
        raise StoreError(f"{path} is no qmgen dataset; give the folder that qmgen generate wrote")
    try:
        attributes = json.loads(root.read_text(encoding="utf-8"))["attributes"]
    except StoreUnreachableError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(path, root, "unreadable") from error
    return parse_metadata(path, attributes)


def parse_metadata(path: Place, attributes: Any) -> StoreMetadata:
    """Make sense of the root group's attributes.

    Raises
    ------
    StoreError
        They are none of a dataset, damaged, or a newer qmgen wrote them.
    """
    root = path / "zarr.json"
    if not isinstance(attributes, dict):
        raise damaged(path, root, "unreadable")
    kind, version = attributes.get("qmgen_kind"), attributes.get("schema_version")
    if kind != KIND:
        raise StoreError(
            f"{path} is a Zarr store but no qmgen dataset; give the folder that qmgen generate "
            "wrote"
        )
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this qmgen knows up to {SCHEMA_VERSION}; "
            "upgrade qmgen"
        )
    try:
        metadata = StoreMetadata.model_validate(attributes)
    except pydantic.ValidationError as error:
        raise damaged(path, root, f"not valid metadata ({error.errors()[0]['msg']})") from error
    at_levels = {label for level in metadata.levels for label in level.labels}
    unknown = set(metadata.optional_labels) - set(OPTIONAL) | at_levels - set(LEVEL_LABELS)
    if unknown:
        raise damaged(path, root, f"not valid metadata (unknown labels {sorted(unknown)})")
    return metadata


def open_arrays(
    path: Place, metadata: StoreMetadata, lengths: Mapping[str, int] = MappingProxyType({})
) -> Arrays:
    """Open every array that a store with these metadata has, by group and name; reads no data.

    Parameters
    ----------
    path : Place
        Where the store is.
    metadata : StoreMetadata
        What its root says.
    lengths : mapping of str to int
        Length of arrays that may be longer already, as a store is that grows.

    Raises
    ------
    StoreError
        An array is missing, its metadata are damaged, or it is of another type or size than the
        root's metadata say.
    """
    groups = store_layout(metadata)
    return {
        group: {
            name: open_array(path, group, field, metadata.counts, lengths.get(f"{group}/{name}"))
            for name, field in fields.items()
        }
        for group, fields in groups.items()
    }


def open_array(
    path: Place, group: str, field: Field, counts: Counts, length: int | None = None
) -> zarr.Array:
    """Open one array for reading, of some length if that is given; raises as `open_arrays`."""
    folder = path / group / field.name
    try:
        array = zarr.open_array(zarr_store(folder), mode="r", zarr_format=3)
        if length is not None and length < array.shape[0]:
            shorter = array.metadata.to_dict() | {"shape": (length, *array.shape[1:])}
            array = zarr.Array.from_dict(array.store_path, shorter)
        dtype = "string" if array.dtype.kind == "T" else str(array.dtype)
    except StoreUnreachableError:
        raise
    except Exception as error:
        # Damaged metadata make Zarr raise nearly anything.
        raise damaged(path, folder / "zarr.json", "missing or unreadable") from error
    rows = leading_size(group, field, counts)
    fits = (
        dtype == field.dtype
        and array.shape[1:] == field.item_shape
        and array.ndim == 1 + len(field.item_shape)
        and array.shards is not None
        and rows in (None, array.shape[0])
    )
    if not fits:
        what = f"not the array that the metadata promise ({dtype} of shape {array.shape})"
        raise damaged(path, folder / "zarr.json", what)
    return array


def leading_size(group: str, field: Field, counts: Counts) -> int | None:
    """Length of an array along its leading axis; None for flat ones, which their offsets tell."""
    if field.offset:
        return None
    rows = int(getattr(counts, group))
    return rows + 1 if field.name.endswith("_offset") else rows
