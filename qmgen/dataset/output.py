"""Outputs that are there when they are complete, and not before."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmgen.errors import StoreError


@contextmanager
def written_beside(output: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write a file or folder to, which is renamed to `output` at the end.

    The path is in the same folder and has the same ending. Whatever fails, nothing is left of it.

    Raises
    ------
    StoreError
        The output exists, or the disk is full or unwritable.
    """
    path = Path(os.path.abspath(output))
    if os.path.lexists(path):
        raise StoreError(f"{path} exists; delete it or choose another output")
    temporary = path.with_name(f"{path.stem}.tmp-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        temporary.rename(path)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"writing {path} failed: {error.strerror or error}; free disk space or choose "
            "another output"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
