"""Outputs that are there when they are complete, and not before.

What took long to make never takes the place of something (`written_beside`); small files that a
command makes anew each time do (`replace_file`).
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmgen.errors import InputError, StoreError


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


def check_output(path: Path, suffix: str) -> None:
    """Check the name and place of a file that is about to be made.

    An ending of its own keeps a slip from replacing a file of another kind.

    Raises
    ------
    InputError
        It has another ending, is a folder, or its folder does not exist.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: the name of this file must end in {suffix}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} can't be made; choose a file in a folder that exists")


def replace_file(path: Path, text: str) -> None:
    """Write a text file, in place of an earlier one only when complete.

    Raises
    ------
    InputError
        The file can't be written.
    """
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror or error}); choose another file"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
