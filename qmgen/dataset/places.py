"""Where data lie: on a file system of this machine, or where fsspec reaches, such as an S3 bucket.

A `RemotePath` has the few methods of `pathlib.Path` that reading a store takes, so most code need
not know which of both it has. Options such as credentials and endpoints are fsspec's own: its
configuration files, and the environment variables of the service.
"""

import io
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias

import fsspec
from fsspec.registry import known_implementations

from qmgen.errors import InputError, MissingExtraError, StoreError, StoreUnreachableError

# Objects that are asked for at a time.
_AT_ONCE = 8
_EXTRAS = {"s3fs": "qmgen[s3]"}


@dataclass(frozen=True)
class RemotePath:
    """An object, or all objects whose names begin so, by URL without a slash at the end.

    Listings are never from a cache, as other processes write meanwhile. Every method raises
    `StoreUnreachableError` where the service can't be reached or refuses.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Last part of the URL without its ending."""
        return PurePosixPath(self.name).stem

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self._kind() == "file"

    def exists(self) -> bool:
        """Whether there is such an object, or one below."""
        return self._kind() is not None

    def read_bytes(self) -> bytes:
        """Read an object; FileNotFoundError if there is none."""
        fs, path = connected(self.url)
        with remote_errors(self.url):
            content: bytes = fs.cat_file(path)
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read an object; FileNotFoundError if there is none."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write an object, which is there whole or not at all."""
        fs, path = connected(self.url)
        with writing_errors(self.url):
            fs.pipe_file(path, content)

    def create(self, content: bytes) -> bool:
        """Write an object unless there is one; says whether it was written."""
        fs, path = connected(self.url)
        with writing_errors(self.url):
            try:
                fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object; FileNotFoundError if it is known that there is none."""
        fs, path = connected(self.url)
        try:
            with remote_errors(self.url):
                fs.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Read objects below, several at a time; FileNotFoundError if there is none such."""
        fs, path = connected(self.url)
        waiting = [*names]
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            with remote_errors(self.url):
                contents = fs.cat([f"{path}/{name}" for name in some])
                yield from ((name, contents[f"{path}/{name}"]) for name in some)

    def _kind(self) -> str | None:
        fs, path = connected(self.url)
        try:
            with remote_errors(self.url):
                return str(fs.info(path)["type"])
        except FileNotFoundError:
            return None


Place: TypeAlias = Path | RemotePath


def place_of(path: str | os.PathLike[str]) -> Place:
    """Tell URLs from paths of this machine, which become absolute.

    Raises
    ------
    InputError
        There is no such kind of URL.
    MissingExtraError
        Its package is not installed.
    """
    text = os.fspath(path)
    if "://" not in text:
        return Path(os.path.abspath(text))
    protocol, _, rest = text.partition("://")
    if protocol in ("file", "local"):
        return Path(os.path.abspath(rest))
    place = RemotePath(text.rstrip("/"))
    connected(place.url)
    return place


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Folder of a dataset that is changed in place.

    Raises
    ------
    StoreError
        It is not on this machine.
    """
    place = place_of(path)
    if isinstance(place, RemotePath):
        raise StoreError(
            f"{place} can't be changed in place, as objects can't be renamed; copy it to a folder "
            "of this machine, do that there, and copy it back"
        )
    return place


def connected(url: str) -> tuple[Any, str]:
    """File system (fsspec's) of a URL, and the path in it.

    Raises
    ------
    InputError
        There is no such kind of URL.
    MissingExtraError
        Its package is not installed.
    StoreUnreachableError
        It can't be reached.
    """
    with remote_errors(url):
        fs, path = fsspec.url_to_fs(url, use_listings_cache=False)
        return fs, path.rstrip("/")


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Turn what the packages of services raise into a clear error; FileNotFoundError passes."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, StoreUnreachableError):
        raise
    except ImportError as error:
        kind = known_implementations.get(url.partition("://")[0], {})
        package = str(kind.get("class", "")).partition(".")[0]
        remedy = f"pip install '{_EXTRAS.get(package, package)}'" if package else str(error)
        raise MissingExtraError(f"{url} can't be reached without its package: {remedy}") from error
    except ValueError as error:
        if "rotocol" not in str(error):
            raise unreachable(url, error) from error
        raise InputError(
            f"{url} is of an unknown kind ({error}); give a folder, or a URL such as "
            "s3://bucket/name.zarr"
        ) from error
    except Exception as error:
        # Services have errors of their own: no credentials, no connection, no permission.
        raise unreachable(url, error) from error


@contextmanager
def writing_errors(url: str) -> Iterator[None]:
    """Like `remote_errors`, where nothing needs to be there before but the bucket."""
    try:
        with remote_errors(url):
            yield
    except FileNotFoundError as error:
        raise unreachable(url, error) from error


def unreachable(url: str, error: Exception) -> StoreUnreachableError:
    """Error for a service that can't be reached or refuses."""
    said = str(error) or type(error).__name__
    return StoreUnreachableError(
        f"{url} can't be reached: {said}; check the address, the network and the credentials that "
        "the environment or fsspec's configuration gives, then run the same command again"
    )


def file_sizes(root: Place) -> dict[str, int]:
    """Size (bytes) of every file below, by its path from there, sorted.

    Raises
    ------
    OSError
        The folder can't be read.
    """
    if isinstance(root, RemotePath):
        fs, path = connected(root.url)
        with remote_errors(root.url):
            found = fs.find(path, detail=True)
        sizes = {name.removeprefix(path + "/"): int(i["size"]) for name, i in found.items()}
    else:
        sizes = {}
        for file in root.rglob("*"):
            # Other processes may remove files of their own meanwhile.
            with suppress(FileNotFoundError):
                if file.is_file():
                    sizes[file.relative_to(root).as_posix()] = file.stat().st_size
    return dict(sorted(sizes.items()))


def names_in(folder: Place) -> list[str]:
    """Names of what lies in a folder, not below; none if there is no such folder.

    Raises
    ------
    OSError
        The folder can't be read.
    """
    try:
        if not isinstance(folder, RemotePath):
            return os.listdir(folder)
        fs, path = connected(folder.url)
        with remote_errors(folder.url):
            return [name.rstrip("/").rpartition("/")[2] for name in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return []


def remove_tree(folder: Place) -> None:
    """Remove a folder and all that is in it; what can't be removed is left."""
    if not isinstance(folder, RemotePath):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(FileNotFoundError, StoreUnreachableError):
        fs, path = connected(folder.url)
        with remote_errors(folder.url):
            # fsspec lists all that it removes, so it gets a part at a time.
            for below in fs.ls(path, detail=True):
                if below["type"] == "directory":
                    fs.rm(below["name"], recursive=True)
            fs.rm(path, recursive=True)


@contextmanager
def reading(path: Place) -> Iterator[BinaryIO]:
    """Open a file.

    Raises
    ------
    FileNotFoundError
        There is none.
    OSError
        It can't be read.
    """
    if isinstance(path, RemotePath):
        yield io.BytesIO(path.read_bytes())
    else:
        with open(path, "rb") as stream:
            yield stream


@contextmanager
def written_whole(path: Place) -> Iterator[BinaryIO]:
    """Write a file that is there whole, and on disk, or not at all, whoever else writes it.

    Raises
    ------
    OSError
        It can't be written.
    """
    if isinstance(path, RemotePath):
        buffer = io.BytesIO()
        yield buffer
        path.write_bytes(buffer.getvalue())
        return
    temporary = path.with_suffix(f".tmp-{uuid.uuid4().hex[:12]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        # Where the folder itself is the trouble, there is no such file either.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
