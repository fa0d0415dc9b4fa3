"""Where a store is written, and how it appears there all at once."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from qmgen.dataset.manifest import GROUP as MANIFEST_GROUP
from qmgen.dataset.manifest import MANIFEST, fsync, manifest_bytes, write_manifest
from qmgen.dataset.places import Place, RemotePath, remove_tree
from qmgen.dataset.schema import RUN_FILE
from qmgen.dataset.zarr_stores import unpublished_store
from qmgen.errors import StoreError, StoreMismatchError


@dataclass(frozen=True)
class Unpublished:
    """A store that is being written.

    Attributes
    ----------
    store : Store
        For Zarr to write to.
    publish : callable
        Takes the root group's attributes; from then on the store can be opened.
    """

    store: Store
    publish: Callable[[Mapping[str, Any]], None]


@contextmanager
def unpublished(place: Place, groups: Iterable[str], into_run: bool) -> Iterator[Unpublished]:
    """Prepare to write a store; what is not published leaves nothing behind.

    Parameters
    ----------
    place : Place
        Where the store shall be. On this machine it is written beside that or, in a run's folder,
        there, and renamed. Objects can't be renamed, so they are written in their place and the
        root's metadata come last.
    groups : iterable of str
        Names of the store's groups.
    into_run : bool
        As of `qmgen.dataset.write_store`.

    Raises
    ------
    StoreError
        There is something (or, with `into_run`, no unfinished run) already.
    OSError
        It can't be written.
    """
    check_place(place, into_run)
    if isinstance(place, RemotePath):
        names = (*groups, MANIFEST_GROUP)
        store = unpublished_store(place)
        last: list[bytes] = []

        def publish(attributes: Mapping[str, Any]) -> None:
            assert store.root is not None
            manifest = manifest_bytes(dict(sorted(store.written.items())), attributes)
            (place / MANIFEST).write_bytes(manifest)
            last.append(store.root)
            (place / "zarr.json").write_bytes(store.root)

        for name in names:
            # Left by an attempt that was killed.
            remove_tree(place / name)
        try:
            yield Unpublished(store, publish)
        except StoreMismatchError:
            # Another run has taken the place, and what is there is its.
            raise
        except BaseException:
            # Whether the root's metadata got there is not known if writing them failed.
            if not last:
                for name in names:
                    remove_tree(place / name)
            raise
        return
    if into_run:
        # The run's folder has one owner, so earlier attempts can't belong to anybody else.
        for stale in place.glob("store.tmp-*"):
            shutil.rmtree(stale)
    suffix = f".tmp-{uuid.uuid4().hex[:12]}"
    temporary = place / f"store{suffix}" if into_run else place.with_name(place.name + suffix)

    def rename(attributes: Mapping[str, Any]) -> None:
        write_manifest(temporary, attributes)
        if into_run:
            _move_into(temporary, place, groups)
        else:
            check_place(place, into_run)
            temporary.rename(place)
            fsync(place.parent)

    try:
        with disk_errors(place):
            temporary.mkdir(parents=True)
        yield Unpublished(LocalStore(temporary), rename)
    except BaseException:
        # A half-written store is of no use; an interrupt must not leave gigabytes behind either.
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_place(place: Place, into_run: bool) -> None:
    """Make sure that a store may be written.

    Raises
    ------
    StoreError
        There is something (or, with `into_run`, no unfinished run) already.
    """
    if into_run:
        if not (place / RUN_FILE).is_file() or (place / "zarr.json").exists():
            raise StoreError(
                f"{place} is not the folder of an unfinished run; choose another output"
            )
    elif place.exists() if isinstance(place, RemotePath) else os.path.lexists(place):
        raise StoreError(f"{place} exists; delete it or choose another output")


def _move_into(temporary: Path, path: Path, groups: Iterable[str]) -> None:
    """Put the store's parts into the run's folder, the root metadata last."""
    for name in (*groups, MANIFEST_GROUP):
        if (path / name).exists():
            # Left by an attempt that was killed while it moved.
            shutil.rmtree(path / name)
        (temporary / name).rename(path / name)
    fsync(path)
    (temporary / "zarr.json").rename(path / "zarr.json")
    fsync(path)
    temporary.rmdir()


@contextmanager
def disk_errors(path: Place) -> Iterator[None]:
    """Turn failing writes into an error that names the remedy."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"writing the dataset {path} failed: {error.strerror or error}; free disk space or "
            "choose another output, then run the same command again"
        ) from error
