"""Keeps two processes from writing the same store."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmgen.dataset.manifest import LOCK
from qmgen.errors import StoreError, StoreMismatchError


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold the lock of a store, or of a run's folder; it ends with this process, however that ends.

    Parameters
    ----------
    store
        A folder that exists.

    Raises
    ------
    StoreMismatchError
        Another process has it.
    StoreError
        The folder can't be written to.
    """
    path = store / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreError(
                f"{store} can't be written to: {error.strerror}; check its permissions"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StoreMismatchError(
                f"another qmgen process is writing {store}; wait for it or stop it first"
            ) from error
        if _is(descriptor, path):
            break
        # Whoever held it has removed the file meanwhile.
        os.close(descriptor)
    try:
        yield
    finally:
        if _is(descriptor, path):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
