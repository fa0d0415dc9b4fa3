"""Zarr's view of a place: files of this machine, or objects that fsspec reaches."""

import hashlib
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore

from qmgen.dataset.manifest import FileEntry
from qmgen.dataset.places import Place, RemotePath, remote_errors, writing_errors

_ROOT = "zarr.json"


class RemoteStore(FsspecStore):
    """Objects that fsspec reaches; what its services raise is told from damage."""

    @property
    def url(self) -> str:
        """Where the objects are."""
        url: str = self.fs.unstrip_protocol(self.path)
        # Paths in memory begin with a slash.
        return url.replace(":///", "://")

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object or a part of it; None if there is none."""
        with remote_errors(f"{self.url}/{key}"):
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Write an object."""
        with writing_errors(f"{self.url}/{key}"):
            await super().set(key, value, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        with remote_errors(f"{self.url}/{key}"):
            return await super().exists(key)


class UnpublishedStore(RemoteStore):
    """Writes all objects but the root's metadata, without which there is no dataset yet.

    Nobody else writes there, so it need not ask for what it has not written itself.

    Attributes
    ----------
    root : bytes or None
        The root's metadata, to be written last.
    written : dict of str to FileEntry
        Sizes and checksums of what was written, the root's metadata included, as nobody wants to
        read it all again.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.root: bytes | None = None
        self.written: dict[str, FileEntry] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object or a part of it; None if there is none."""
        if key not in self.written:
            return None
        if key == _ROOT and self.root is not None:
            return prototype.buffer.from_bytes(self.root)
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Write an object, or keep the root's metadata."""
        content = value.to_bytes()
        self.written[key] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        if key == _ROOT:
            self.root = content
        else:
            await super().set(key, value, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        return key in self.written


def zarr_store(place: Place) -> Store:
    """Store to read from."""
    if isinstance(place, RemotePath):
        with remote_errors(place.url):
            return RemoteStore.from_url(place.url, {"use_listings_cache": False}, read_only=True)
    return LocalStore(place, read_only=True)


def unpublished_store(place: RemotePath) -> UnpublishedStore:
    """Store to write a dataset to."""
    with remote_errors(place.url):
        store = UnpublishedStore.from_url(place.url, {"use_listings_cache": False})
    assert isinstance(store, UnpublishedStore)
    return store


def place_of_array(array: zarr.Array) -> tuple[Place, Place]:
    """Place of the dataset that has an array, and of the array in it."""
    if isinstance(array.store, RemoteStore):
        url = array.store.url
        return RemotePath(url.rsplit("/", 2)[0]), RemotePath(url)
    assert isinstance(array.store, LocalStore)
    return array.store.root.parents[1], array.store.root
