"""Integers to as few bytes as their frequencies allow, and back, exactly.

An asymmetric numeral system (package constriction) comes within a few bytes of Shannon's bound. The
lowest bits of widely spread integers are as good as random, and are kept as they are where their
frequencies would take more than they save.
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt64

from qmgen.errors import InputError, MissingExtraError

# Number of integers, the least one, bits kept as they are, bytes of the frequencies.
_HEADER = struct.Struct("<QqBI")
_MOST_SYMBOLS_LOG2 = 13
# About what packed frequencies take: each beyond its own digits, one of 0, and all together.
_SYMBOL_BITS, _GAP_BITS, _TABLE_BITS = 6, 1, 88
# Words that a coder ends with whatever it holds.
_STATE_BITS = 64


class _Plan(NamedTuple):
    """How integers from 0 are coded: frequencies of what is left above the lowest bits."""

    low_bits: int
    counts: Integer[np.ndarray, " symbols"]
    bits: float


def encode_integers(integers: Int64[np.ndarray, "..."]) -> bytes:
    """Code integers of any size and number, with their frequencies; their shape is lost.

    Raises
    ------
    MissingExtraError
        The package constriction is missing.
    """
    flat = integers.ravel()
    if not flat.size:
        return _HEADER.pack(0, 0, 0, 0)
    offsets, least = _from_least(flat)
    low_bits, counts, _ = _plan(offsets)
    table = zlib.compress(counts.astype("<u4").tobytes(), 9)
    parts = [_HEADER.pack(flat.size, least, low_bits, len(table)), table]
    if low_bits:
        places = np.arange(low_bits, dtype=np.uint64)
        ones = ((offsets[:, None] >> places) & np.uint64(1)).astype(np.uint8)
        parts.append(np.packbits(ones).tobytes())
    used = np.flatnonzero(counts)
    if len(used) > 1:
        rank = np.zeros(len(counts), np.int32)
        rank[used] = np.arange(len(used))
        coder = _library().stream.stack.AnsCoder()
        symbols = rank[(offsets >> np.uint64(low_bits)).astype(np.int64)]
        coder.encode_reverse(symbols, _model(counts[used]))
        parts.append(coder.get_compressed().astype("<u4").tobytes())
    return b"".join(parts)


def decode_integers(data: bytes) -> Int64[np.ndarray, " n"]:
    """Integers that `encode_integers` has coded.

    Raises
    ------
    InputError
        The data are cut off or no such code. Not all damage shows: keep a checksum beside them.
    MissingExtraError
        The package constriction is missing.
    """
    damaged = "these bytes are no entropy-coded integers; they may be damaged or cut off"
    try:
        size, least, low_bits, table = _HEADER.unpack_from(data)
        place = _HEADER.size + table
        packed = zlib.decompress(data[_HEADER.size : place]) if size else b""
        counts = np.frombuffer(packed, "<u4").astype(np.int64)
    except (struct.error, zlib.error, ValueError) as error:
        raise InputError(damaged) from error
    low_bytes = -(-size * low_bits // 8)
    words = data[place + low_bytes :]
    used = np.flatnonzero(counts)
    ends_well = len(words) % 4 == 0 and bool(words) == (len(used) > 1)
    if int(counts.sum()) != size or len(data) < place + low_bytes or not ends_well:
        raise InputError(damaged)
    offsets = np.zeros(size, np.uint64)
    if low_bits:
        bits = np.frombuffer(data, np.uint8, low_bytes, place)
        ones = np.unpackbits(bits, count=size * low_bits).reshape(size, low_bits)
        for bit in range(low_bits):
            offsets |= ones[:, bit].astype(np.uint64) << np.uint64(bit)
    if len(used) > 1:
        coder = _library().stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
        symbols = used[coder.decode(_model(counts[used]), size)]
        offsets |= symbols.astype(np.uint64) << np.uint64(low_bits)
    return (offsets + np.uint64(least % 2**64)).view(np.int64)


def coded_bits(integers: Int64[np.ndarray, "..."]) -> float:
    """About as many bits as `encode_integers` gives; nothing is coded."""
    if not integers.size:
        return 8 * _HEADER.size
    return 8 * _HEADER.size + _plan(_from_least(integers.ravel())[0]).bits


def shannon_bits(integers: Int64[np.ndarray, "..."]) -> float:
    """Shannon's bound of integers by their own frequencies, which aren't counted."""
    return _entropy_bits(np.unique(integers, return_counts=True)[1])


def _library() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise MissingExtraError(
            "entropy coding needs the package constriction; install it with: "
            "pip install 'qmgen[entropy]'"
        ) from error
    return constriction


def _model(counts: Integer[np.ndarray, " symbols"]) -> Any:
    # Nothing but sums and products of floats, so that every machine makes the same model.
    return _library().stream.model.Categorical(counts.astype(np.float64), perfect=False, lazy=False)


def _from_least(flat: Int64[np.ndarray, " n"]) -> tuple[UInt64[np.ndarray, " n"], int]:
    """Differences from the least one, which int64 might not hold, and that one."""
    least = int(flat.min())
    return flat.astype(np.uint64) - np.uint64(least % 2**64), least


def _entropy_bits(counts: Integer[np.ndarray, " symbols"]) -> float:
    used = counts[counts > 0].astype(np.float64)
    return float(used.sum() * np.log2(used.sum()) - np.sum(used * np.log2(used)))


def _table_bits(counts: Integer[np.ndarray, " symbols"]) -> float:
    """About what the frequencies take."""
    used = counts[counts > 0]
    digits = float(np.sum(np.log2(used))) + _SYMBOL_BITS * len(used)
    return digits + _GAP_BITS * (len(counts) - len(used)) + _TABLE_BITS


def _plan(offsets: UInt64[np.ndarray, " n"]) -> _Plan:
    """Choose how many of the lowest bits are kept as they are."""
    width = int(offsets.max()).bit_length()
    fewest = max(0, width - _MOST_SYMBOLS_LOG2)
    counts = np.bincount((offsets >> np.uint64(fewest)).astype(np.int64))
    plans = []
    for low_bits in range(fewest, width + 1):
        bits = len(offsets) * low_bits + _entropy_bits(counts) + _table_bits(counts)
        bits += _STATE_BITS * (np.count_nonzero(counts) > 1)
        plans.append(_Plan(low_bits, counts, bits))
        even = np.append(counts, np.zeros(len(counts) % 2, counts.dtype))
        counts = even.reshape(-1, 2).sum(1)
    return min(plans, key=lambda plan: plan.bits)
