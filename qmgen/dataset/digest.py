"""One number for a store's content, to show that two stores hold the same data."""

import hashlib
import json
import os

import numpy as np

from qmgen.dataset.gather import read_span
from qmgen.dataset.opening import open_checked
from qmgen.dataset.places import place_of

_VALUES = 1 << 18


def store_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 over a store's content.

    Covers every array's name, type, shape and decoded values, the counts, the split, the
    configuration, the seed and the input file's checksum; leaves out the time of writing, the
    machine, the package versions, the command line, how arrays are cut and compressed, and what
    parts a merged store came from.

    Parameters
    ----------
    path : path
        Folder of the store, or its URL.

    Returns
    -------
    str
        Hexadecimal digest.

    Raises
    ------
    StoreError
        There is no complete store, or it is damaged.
    """
    metadata, arrays_of = open_checked(place_of(path))
    # What an earlier version did not write yet is no part of its stores' content.
    content = metadata.model_dump(
        mode="json", exclude={"created", "provenance", "parts"}, exclude_unset=True
    )
    content["provenance"] = metadata.provenance.model_dump(
        mode="json", exclude={"versions", "hardware", "command", "source"}, exclude_unset=True
    )
    content["source_sha256"] = metadata.provenance.source.sha256
    total = hashlib.sha256(_canonical(content))
    for group, arrays in arrays_of.items():
        for name, array in arrays.items():
            total.update(_canonical([group, name, str(array.dtype), list(array.shape)]))
            step = max(1, _VALUES // max(1, int(np.prod(array.shape[1:]))))
            for start in range(0, array.shape[0], step):
                total.update(_plain_bytes(read_span(array, start, start + step)))
    return total.hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _plain_bytes(values: np.ndarray) -> bytes:
    if values.dtype.kind == "T":
        return _canonical(values.tolist())
    # One byte order, so that the digest is the same on every machine.
    return values.astype(values.dtype.newbyteorder("<")).tobytes()
