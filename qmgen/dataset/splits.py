"""Train, validation and test splits: by molecule, reproducible, whatever the order."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8, UInt64

from qmgen.errors import ConfigError

SPLITS = ("train", "val", "test")
"""Names of the stored split codes 0, 1 and 2."""


def split_key(smile: str, source_id: str, line: int) -> str:
    """Give what keeps a molecule in one split: its SMILES, else its name or place."""
    if smile:
        return smile
    return f"id {source_id}" if source_id else f"line {line}"


def split_digest(key: str, seed: int) -> int:
    """Rank of one key: the first 64 bits of sha256 over ``seed|key``."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:8], "big")


def check_fractions(fractions: Sequence[float]) -> None:
    """Check that split fractions are usable.

    Raises
    ------
    ConfigError
        They aren't three numbers of at least 0 with sum 1.
    """
    if (
        len(fractions) != len(SPLITS)
        or not all(0 <= fraction <= 1 for fraction in fractions)
        or not math.isclose(sum(fractions), 1.0, abs_tol=1e-9)
    ):
        raise ConfigError(
            f"split fractions must be three numbers from 0 to 1 with sum 1 (train, val, test), "
            f"not {tuple(fractions)}"
        )


def assign_splits(
    keys: Sequence[str], seed: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)
) -> UInt8[np.ndarray, " nmol"]:
    """Give each molecule a split.

    Keys are ranked by a hash, so the result depends on the set of keys, `seed` and `fractions`,
    not on the keys' order.

    Parameters
    ----------
    keys : sequence of str
        One key a molecule, its SMILES where it has one; equal keys get the same split.
    seed : int
        Another seed gives other splits.
    fractions : sequence of float
        Shares of train, validation and test among the distinct keys. With at least three
        distinct keys each share above 0 gets at least one.

    Returns
    -------
    UInt8[nmol]
        0 train, 1 validation, 2 test.

    Raises
    ------
    ConfigError
        The fractions aren't three numbers of at least 0 with sum 1.
    """
    digests = np.fromiter((split_digest(key, seed) for key in keys), np.uint64, len(keys))
    return splits_of_digests(digests, fractions)


def splits_of_digests(
    digests: UInt64[np.ndarray, " nmol"], fractions: Sequence[float]
) -> UInt8[np.ndarray, " nmol"]:
    """Give each molecule a split by its key's `split_digest`; see `assign_splits`.

    Takes 8 bytes a molecule instead of the keys, so that a large store needs no list of strings.
    """
    check_fractions(fractions)
    unique, inverse = np.unique(digests, return_inverse=True)
    sizes = _apportion(unique.size, fractions)
    codes = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)
    return codes[inverse]


def splits_by_hash(
    digests: UInt64[np.ndarray, " nmol"], fractions: Sequence[float]
) -> UInt8[np.ndarray, " nmol"]:
    """Give each molecule the split whose share of all hashes its `split_digest` falls in.

    That is what `splits_of_digests` comes to in a large set, and depends on no other molecule, so
    molecules may come one by one.
    """
    check_fractions(fractions)
    bounds = [int(2**64 * sum(fractions[:count])) for count in range(1, len(SPLITS))]
    codes = np.zeros(digests.size, np.uint8)
    for bound in bounds:
        if bound < 2**64:
            codes += digests >= np.uint64(bound)
    return codes


def _apportion(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers with the given sum nearest to the shares (largest remainders)."""
    shares = [total * fraction for fraction in fractions]
    sizes = [math.floor(share) for share in shares]
    # The rounding keeps float noise such as 0.1 * 30 from deciding ties between equal shares.
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-round(shares[i] - sizes[i], 9), i))
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    if total >= len(sizes):
        for i, fraction in enumerate(fractions):
            if fraction > 0 and sizes[i] == 0:
                sizes[sizes.index(max(sizes))] -= 1
                sizes[i] = 1
    return sizes
