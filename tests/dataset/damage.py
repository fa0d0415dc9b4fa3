"""Damage to stores, and reading all that is in one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from qmgen.dataset import open_dataset


def files_of(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


@contextmanager
def flipped(file: Path, position: int, mask: int) -> Iterator[None]:
    """Change one byte of a file, and put it back."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, position)
        os.pwrite(descriptor, bytes([byte[0] ^ mask]), position)
        yield
        os.pwrite(descriptor, byte, position)
    finally:
        os.close(descriptor)


def read_all(store: Path) -> None:
    """Read every value of every array in each way that a reader has."""
    dataset = open_dataset(store)
    for _ in dataset.iter_blocks(4096, converged_only=False):
        pass
    list(dataset.failures())
    dataset.indices("train")
    dataset.column("energy", np.arange(0, len(dataset), 17))
    for number in (0, dataset.num_molecules - 1) if dataset.num_molecules else ():
        dataset.molecule(number)
