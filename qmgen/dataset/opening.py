"""Opens a store, or says why it can't be opened."""

import json
from pathlib import Path

import pydantic
import zarr
from zarr.storage import LocalStore

from qmgen.dataset.manifest import damaged
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.schema import KIND, OPTIONAL, RUN_FILE, SCHEMA_VERSION, store_groups
from qmgen.errors import StoreError, StoreIncompleteError


def read_metadata(path: Path) -> StoreMetadata:
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
        kind, version = attributes.get("qmgen_kind"), attributes.get("schema_version")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(path, root, "unreadable") from error
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
    unknown = set(metadata.optional_labels) - set(OPTIONAL)
    if unknown:
        raise damaged(path, root, f"not valid metadata (unknown labels {sorted(unknown)})")
    return metadata


def open_arrays(path: Path, metadata: StoreMetadata) -> dict[str, dict[str, zarr.Array]]:
    """Open every array that a store with these metadata has, by group and name; reads no data.

    Raises
    ------
    StoreError
        An array is missing or its metadata are damaged.
    """
    root = zarr.open_group(LocalStore(path, read_only=True), mode="r")
    return {
        group: {name: _array(path, root, f"{group}/{name}") for name in fields}
        for group, fields in store_groups(metadata.optional_labels, metadata.schema_version).items()
    }


def _array(path: Path, root: zarr.Group, name: str) -> zarr.Array:
    try:
        array = root[name]
    except (KeyError, ValueError) as error:
        raise damaged(path, path / name, "missing or unreadable") from error
    if not isinstance(array, zarr.Array):
        raise damaged(path, path / name, "no array")
    return array
