"""A codec of Zarr for labels that are known to a bound: a uniform grid, entropy-coded.

The grid is that of `rounding`, so what is rounded already comes back to the last bit, and a store
whose labels are rounded holds the same numbers with this codec as without. It is registered as the
entry point ``qmgen.uniform_grid``: plain Zarr reads such arrays where qmgen and its extra
``entropy`` are installed.
"""

import asyncio
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from qmgen.dataset.rounding import rounding_step
from qmgen.errors import InputError
from qmgen.integer_coding import decode_integers, encode_integers

NAME = "qmgen.uniform_grid"
_FIRST = struct.Struct("<Q")
# Beyond this float64 has no bits for the grid's points.
_LARGEST = 2.0**53
_NOT_FINITE = np.array([0.0, np.nan, np.inf, -np.inf])


@dataclass(frozen=True)
class UniformGridCodec(ArrayBytesCodec):
    """Rounds floats to multiples of a step and codes these by their frequencies in the chunk.

    Attributes
    ----------
    step : float
        Distance of the grid's points. No error is larger than half of it, but for the rounding of
        float64 itself. NaN and infinities are kept, the sign of zero is not.

    Raises
    ------
    InputError
        The step isn't positive and finite; when writing, a number is too large for the grid; when
        reading, the data are damaged.
    MissingExtraError
        When writing or reading, without the extra ``entropy``.
    """

    is_fixed_size = False

    step: float

    def __post_init__(self) -> None:
        if not 0 < self.step < np.inf:
            raise InputError(f"the step of {NAME} must be positive and finite, not {self.step}")

    @classmethod
    def of_bound(cls, bound: float) -> "UniformGridCodec":
        """The codec whose errors are at most a bound, on the grid of `qmgen.dataset.rounding`."""
        return cls(rounding_step(bound))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "UniformGridCodec":
        """Make one from an array's metadata."""
        match data.get("configuration"):
            case {"step": float() | int() as step, **others} if not others:
                return cls(float(step))
            case other:
                raise InputError(f"the codec {NAME} is configured by a step alone, not {other}")

    def to_dict(self) -> dict[str, Any]:
        """Give what goes into an array's metadata."""
        return {"name": NAME, "configuration": {"step": self.step}}

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> "UniformGridCodec":
        """Check that an array is of floats; Zarr asks this of codecs inside shards, too."""
        dtype = array_spec.dtype.to_native_dtype()
        if dtype not in (np.float32, np.float64):
            raise InputError(f"{NAME} is for float32 and float64, not {dtype}")
        return self

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        data = await asyncio.to_thread(encode_chunk, chunk_array.as_numpy_array(), self.step)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        size = math.prod(chunk_spec.shape)
        values = await asyncio.to_thread(decode_chunk, chunk_bytes.to_bytes(), self.step, size)
        array = values.astype(chunk_spec.dtype.to_native_dtype()).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(array)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Zarr asks this of codecs of fixed size alone."""
        raise NotImplementedError


def encode_chunk(values: Float[np.ndarray, "..."], step: float) -> bytes:
    """Code a chunk; what isn't finite, if anything is, comes in a second part.

    Zarr fills the last chunk of an array up with one number, whose repetitions are left out.

    Raises
    ------
    InputError
        A number is too large for the grid.
    MissingExtraError
        The package constriction is missing.
    """
    values = _without_repeated_end(values.ravel())
    finite = np.isfinite(values)
    points = np.rint(np.where(finite, values, 0.0).astype(np.float64) / step)
    if points.size and np.abs(points).max() > _LARGEST:
        raise InputError(
            f"{float(np.abs(values[finite]).max())} is too large for steps of {step}; choose a "
            "larger bound, or store it without one"
        )
    first = encode_integers(points.astype(np.int64))
    kinds = b""
    if not finite.all():
        kind = np.isnan(values) + 2 * np.isposinf(values) + 3 * np.isneginf(values)
        kinds = encode_integers(kind.astype(np.int64))
    return _FIRST.pack(len(first)) + first + kinds


def _without_repeated_end(flat: Float[np.ndarray, " n"]) -> Float[np.ndarray, " kept"]:
    if not flat.size:
        return flat
    last = flat[-1]
    others = np.flatnonzero(~np.isnan(flat) if np.isnan(last) else flat != last)
    return flat[: (others[-1] if len(others) else -1) + 2]


def decode_chunk(data: bytes, step: float, size: int) -> Float[np.ndarray, " size"]:
    """Undo `encode_chunk` of so many numbers, as float64 in one axis.

    Raises
    ------
    InputError
        The data are damaged.
    MissingExtraError
        The package constriction is missing.
    """
    if len(data) < _FIRST.size:
        raise InputError("a chunk is cut off; copy the store again")
    stop = _FIRST.size + _FIRST.unpack_from(data)[0]
    values = decode_integers(data[_FIRST.size : stop]) * step
    if len(data) > stop:
        kind = decode_integers(data[stop:])
        if kind.shape != values.shape or not ((kind >= 0) & (kind < len(_NOT_FINITE))).all():
            raise InputError("a chunk is damaged; copy the store again")
        values = np.where(kind == 0, values, _NOT_FINITE[kind])
    repeated = size - len(values)
    if repeated < 0 or (repeated and not len(values)):
        raise InputError("a chunk is damaged; copy the store again")
    return np.append(values, np.full(repeated, values[-1])) if repeated else values
