"""Formats of tensors by their bits: each gives values and all bits that these take.

What Orr et al., 2505.12988, compare: a scale for a tensor, a channel or a block, of integers or of
codebooks; outliers apart; and codes of variable length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from qmgen.efficiency.codebooks import Distribution, absmax_codebook, rms_codebook
from qmgen.efficiency.element import BFLOAT16, IntElement
from qmgen.efficiency.entropy_coding import compress, decompress, step_for_bits
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.granularity import PER_TENSOR, blocks_along, per_channel
from qmgen.efficiency.quantise import bits_per_element, fake_quantise
from qmgen.efficiency.sparse_outliers import (
    SparseFormat,
    dequantise_sparse,
    quantise_sparse,
    sparse_bits_per_element,
)
from qmgen.errors import InputError

# About what an entropy-coded tensor has besides its codes, too much for a budget of a small one.
_HEADER_BITS = 400


class Rounded(NamedTuple):
    """Values of a tensor in a format, and the bits of all of it."""

    values: Float32[np.ndarray, "..."]
    bits: float


@dataclass(frozen=True)
class WeightFormat:
    """A family of formats.

    Attributes
    ----------
    name
        For tables; of codebooks, the distribution that they are made for comes first.
    whole
        Whether an element has a whole number of bits.
    apply
        Rounds a tensor, its first axis the channels, at so many bits an element; those of scales,
        outliers and headers come on top.
    """

    name: str
    whole: bool
    apply: Callable[[Float[np.ndarray, "..."], float], Rounded]


def _of_format(format_at: Callable[[int], Format], flat: bool = False) -> Callable[..., Rounded]:
    def apply(x: Float[np.ndarray, "..."], bits: float) -> Rounded:
        format = format_at(_whole(bits))
        shaped = x.reshape(-1) if flat else x
        values = np.asarray(fake_quantise(jnp.asarray(shaped, jnp.float32), format))
        return Rounded(values.reshape(x.shape), bits_per_element(format, shaped.shape) * x.size)

    return apply


def _whole(bits: float) -> int:
    if bits != round(bits):
        raise InputError(f"this format has a whole number of bits, not {bits}")
    return round(bits)


def integers_by_channel() -> WeightFormat:
    """Integers, absmax scales of the first axis."""
    scale = ScaleFormat(BFLOAT16)
    return WeightFormat(
        "integers, absmax by channel",
        True,
        _of_format(lambda bits: Format(IntElement(bits), scale, per_channel(0))),
    )


def integers_by_block(block: int) -> WeightFormat:
    """Integers, absmax scales of neighbours in the flattened tensor."""
    scale, blocks = ScaleFormat(BFLOAT16), blocks_along(block)
    return WeightFormat(
        f"integers, absmax of {block}",
        True,
        _of_format(lambda bits: Format(IntElement(bits), scale, blocks), flat=True),
    )


def codebook_by_tensor(distribution: Distribution) -> WeightFormat:
    """Cube-root density, one RMS scale."""
    return WeightFormat(
        f"{distribution.title}, RMS of the tensor", True, _of_format(_codebook_by_rms(distribution))
    )


def codebook_by_channel(distribution: Distribution) -> WeightFormat:
    """Cube-root density, RMS scales of the first axis."""
    scale = ScaleFormat(BFLOAT16, "rms", 1.0)

    def format_at(bits: int) -> Format:
        return Format(rms_codebook(distribution, 1 << bits), scale, per_channel(0))

    return WeightFormat(f"{distribution.title}, RMS by channel", True, _of_format(format_at))


def codebook_by_block(distribution: Distribution, block: int) -> WeightFormat:
    """Cube-root density, signed absmax scales of neighbours in the flattened tensor."""
    scale, blocks = ScaleFormat(BFLOAT16, "signmax"), blocks_along(block)

    def format_at(bits: int) -> Format:
        book = absmax_codebook(distribution, 1 << bits, block, "signmax")
        return Format(book, scale, blocks)

    return WeightFormat(
        f"{distribution.title}, signmax of {block}", True, _of_format(format_at, flat=True)
    )


def codebook_and_outliers(distribution: Distribution, share: float = 0.001) -> WeightFormat:
    """Cube-root density, one RMS scale, and the largest numbers beside."""
    format_at = _codebook_by_rms(distribution)

    def apply(x: Float[np.ndarray, "..."], bits: float) -> Rounded:
        sparse = SparseFormat(format_at(_whole(bits)), share)
        quantised = quantise_sparse(jnp.asarray(x, jnp.float32), sparse)
        taken = sparse_bits_per_element(sparse, x.shape) * x.size
        return Rounded(np.asarray(dequantise_sparse(quantised)), taken)

    return WeightFormat(f"{distribution.title}, RMS, {100 * share:g}% outliers apart", True, apply)


def entropy_coded() -> WeightFormat:
    """A uniform grid, entropy-coded to bytes; the step follows from the bits."""

    def apply(x: Float[np.ndarray, "..."], bits: float) -> Rounded:
        coded = compress(x, step_for_bits(x, bits + _HEADER_BITS / max(x.size, 1)))
        return Rounded(decompress(coded).astype(np.float32), coded.bits)

    return WeightFormat("uniform grid, entropy-coded", False, apply)


def _codebook_by_rms(distribution: Distribution) -> Callable[[int], Format]:
    scale = ScaleFormat(BFLOAT16, "rms", 1.0)
    return lambda bits: Format(rms_codebook(distribution, 1 << bits), scale, PER_TENSOR)
