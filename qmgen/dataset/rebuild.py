"""Makes a store's metadata files again from what else the store says."""

import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from qmgen.dataset.arrays import Chunking, create_array
from qmgen.dataset.damage import EXTRA
from qmgen.dataset.gather import read_span
from qmgen.dataset.layout import store_layout
from qmgen.dataset.manifest import (
    GROUP,
    MANIFEST,
    SEALED_SINCE,
    Files,
    damaged,
    entry_of,
    found_files,
    fsync,
    manifest_bytes,
    read_manifest,
)
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import leading_size, open_array
from qmgen.dataset.publishing import disk_errors
from qmgen.dataset.schema import Field
from qmgen.dataset.store import DEFAULT_CHUNKING, create_group
from qmgen.dataset.verify import Verification, is_remade, root_attributes
from qmgen.errors import StoreError


def rebuild_metadata(found: Verification) -> tuple[tuple[str, ...], bool]:
    """Make the damaged metadata files of a store again and put them in place.

    The root's come from the copy in the manifest, those of groups and arrays from the schema, the
    manifest from the files. Where they differ from what was written, a note in the metadata says
    so.

    Parameters
    ----------
    found : Verification
        What is damaged.

    Returns
    -------
    tuple of str
        Files that were put in place.
    bool
        Whether all are, to the byte, what was written.

    Raises
    ------
    StoreError
        Both copies of the root's metadata are damaged, values are lost together with the manifest,
        or the disk is full or unwritable.
    """
    path, metadata = found.folder, found.metadata
    if metadata is None:
        raise StoreError(
            f"{path}: neither of the two copies of its metadata can be read, in zarr.json and in "
            f"{MANIFEST}; copy one of the files from an intact copy of the dataset, or delete the "
            "dataset and run qmgen generate again"
        )
    foreign = {damage.name for damage in found.damaged if damage.problem == EXTRA}
    wrong = [damage.name for damage in found.damaged if damage.name not in foreign]
    names = [name for name in wrong if name.endswith("zarr.json")]
    others = [name for name in names if name != MANIFEST]
    exact = True
    with workplace(path) as folder:
        done: list[str] = []
        # The length of a flat array is in its offsets, whose own metadata therefore come first.
        for flat in (False, True) if others else ():
            made = folder / f"flat-{flat}"
            left = {*others} - {*done}
            _write_skeleton(path, metadata, made, left, flat=flat)
            new = {name: made / name for name in sorted(left) if (made / name).exists()}
            put_all(path, new)
            done += new
        if MANIFEST in names:
            values = [damage.name for damage in found.damaged if damage.rows]
            if values:
                raise StoreError(
                    f"{path}: its manifest is damaged and so is {values[0]}, so that nothing tells "
                    f"what else is; copy {MANIFEST} from an intact copy of the dataset, or delete "
                    "the dataset and run qmgen generate again"
                )
            content = (path / MANIFEST).read_bytes() if (path / MANIFEST).is_file() else b""
            files = {n: entry for n, entry in found_files(path).items() if n not in foreign}
            exact = is_remade(content, files, metadata)
            note = "The manifest was lost and made again from the files as they were, unchecked."
        elif others:
            files = read_manifest(path, metadata.schema_version)
            again = {name: entry_of(path / name) for name in others}
            exact = all(files[name] == entry for name, entry in again.items())
            files |= again
            note = "Damaged metadata of arrays were made again by another version of qmgen."
        if not exact:
            replace_root(path, with_note(metadata, note), files, folder)
        elif MANIFEST in names:
            _replace_manifest(path, metadata, files, folder)
    return tuple(names), exact


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """Folder beside a store for what is to be put in place; removed at the end."""
    folder = path.with_name(f"{path.name}.repair-{uuid.uuid4().hex[:12]}")
    with disk_errors(path):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(made: Path, place: Path) -> None:
    """Put a file in the place of a damaged one, so that at any moment one of them is there.

    Raises
    ------
    StoreError
        The disk is full or unwritable.
    """
    with disk_errors(place):
        fsync(made)
        new = [folder for folder in place.parents if not folder.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, place)
        for folder in (place.parent, *(folder.parent for folder in new)):
            fsync(folder)


def with_note(metadata: StoreMetadata, note: str) -> StoreMetadata:
    """Metadata with one more thing that a user of the labels should know, and today's date."""
    today = datetime.now(UTC).date().isoformat()
    return metadata.model_copy(update={"notes": (*metadata.notes, f"{today}: {note}")})


def put_all(path: Path, made: Mapping[str, Path]) -> None:
    """Put files in the place of a store's, by name; raises as `put`."""
    for name, file in made.items():
        put(file, path / name)


def replace_root(path: Path, metadata: StoreMetadata, files: Files, folder: Path) -> None:
    """Put other metadata in the place of the root's, and a manifest that fits them.

    Parameters
    ----------
    path : Path
        Folder of the store.
    metadata : StoreMetadata
        What the root shall say.
    files : dict of str to FileEntry
        What the manifest shall list; the root's own entry is made here.
    folder : Path
        Where to write what is put in place.

    Raises
    ------
    StoreError
        The disk is full or unwritable.
    """
    with disk_errors(path):
        write_root(metadata, folder / "root")
        new = entry_of(folder / "root" / "zarr.json")
    put(folder / "root" / "zarr.json", path / "zarr.json")
    _replace_manifest(path, metadata, files | {"zarr.json": new}, folder)


def _replace_manifest(path: Path, metadata: StoreMetadata, files: Files, folder: Path) -> None:
    with disk_errors(path):
        (folder / GROUP).mkdir(exist_ok=True)
        (folder / MANIFEST).write_bytes(manifest_bytes(files, root_attributes(metadata)))
    put(folder / MANIFEST, path / MANIFEST)


def write_root(metadata: StoreMetadata, folder: Path) -> zarr.Group:
    """Write the root's metadata into a folder.

    Raises
    ------
    OSError
        The disk is full or unwritable.
    """
    root = zarr.create_group(LocalStore(folder), zarr_format=3)
    return root.update_attributes(root_attributes(metadata))


def _write_skeleton(
    path: Path, metadata: StoreMetadata, folder: Path, wrong: Collection[str], *, flat: bool
) -> None:
    """Write metadata files as a store's writer did; of arrays the flat ones or the rest."""
    groups = store_layout(metadata)
    chunking = _chunking(path, metadata, wrong)
    checksums = metadata.schema_version >= SEALED_SINCE
    with disk_errors(path):
        root = write_root(metadata, folder)
        for name, fields in groups.items():
            group = create_group(root, name, fields)
            for field in fields.values():
                if bool(field.offset) != flat:
                    continue
                array = create_array(group, field, chunking, checksums=checksums)
                rows = _rows(path, metadata, wrong, name, field)
                array.resize((rows, *field.item_shape))


def _rows(
    path: Path, metadata: StoreMetadata, wrong: Collection[str], group: str, field: Field
) -> int:
    """Length of an array along its leading axis."""
    rows = leading_size(group, field, metadata.counts)
    if rows is not None:
        return rows
    assert field.offset is not None
    offset = f"{group}/{field.offset}"
    intact = _intact(path, metadata, wrong)
    # Arrays that are cut by the same offsets are as long.
    alike = [a for name, f, a in intact if f.offset == field.offset and name.startswith(group)]
    if alike:
        return int(alike[0].shape[0])
    ends = [read_span(a, a.shape[0] - 1, a.shape[0]) for name, _, a in intact if name == offset]
    if ends:
        return int(ends[0][0])
    raise damaged(path, path / offset, "damaged, and so are all arrays that it cuts")


def _chunking(path: Path, metadata: StoreMetadata, wrong: Collection[str]) -> Chunking:
    """Find out how the arrays are cut from those whose metadata are intact."""
    values = dict(vars(DEFAULT_CHUNKING))
    for _, field, array in _intact(path, metadata, wrong):
        if field.dtype == "string":
            values["strings"] = array.chunks[0]
        elif not field.offset:
            values["rows"] = array.chunks[0]
        elif field.item_size == 1:
            values["elements"] = array.chunks[0]
        assert array.shards is not None
        values["chunks_per_shard"] = array.shards[0] // array.chunks[0]
        for codec in array.compressors:
            if isinstance(codec, ZstdCodec):
                values["level"] = codec.level
    return Chunking(**values)


def _intact(
    path: Path, metadata: StoreMetadata, wrong: Collection[str]
) -> list[tuple[str, Field, zarr.Array]]:
    """Arrays whose metadata are what was written."""
    groups = store_layout(metadata)
    return [
        (f"{group}/{name}", field, open_array(path, group, field, metadata.counts))
        for group, fields in groups.items()
        for name, field in fields.items()
        if f"{group}/{name}/zarr.json" not in wrong
    ]
