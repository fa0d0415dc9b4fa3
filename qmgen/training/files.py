"""Files that are either there or not, whenever the process is killed."""

import os
from collections.abc import Callable
from pathlib import Path

PART = ".part"
"""Ending of a file that is being written."""


def write_in_one_go(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside the place it is for, and put it there when it is on the disk.

    Parameters
    ----------
    path : Path
        File to write or replace.
    write : callable
        Writes the content to the path that it gets.
    """
    part = path.with_name(f"{path.name}{PART}")
    write(part)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
