"""What one stored number can be: floats of any split, integers, and codebooks.

An element says which values its codes stand for, and nothing of scales. Codes of floats are the bit
patterns that `ml_dtypes` uses where it has the format.
"""

import math
from dataclasses import dataclass
from typing import Literal

from qmgen.errors import InputError

Specials = Literal["ieee", "fn", "fnuz", "finite"]


@dataclass(frozen=True)
class FloatElement:
    """A floating-point format of at most 32 bits.

    A code with exponent field f > 0 and fraction t is (1 + t / 2^fraction_bits) 2^(f - bias), one
    with f = 0 is t 2^(1 - bias - fraction_bits).

    Attributes
    ----------
    exponent_bits, fraction_bits, bias
        Layout. The range must lie within that of float32, subnormal numbers included.
    specials
        "ieee": the largest exponent field is kept for infinities and NaN. "fn": finite, NaN is the
        code of all ones. "fnuz": finite, unsigned zero, NaN is the code that -0 would have.
        "finite": every code is a number; as in ml_dtypes, casts then always saturate, and NaN
        becomes a zero of the other sign.
    signed
        Without a sign, negative numbers become NaN, or 0 where there is no NaN.
    has_zero
        Without zero there are no subnormal numbers either: f = 0 is a binade like others (E8M0).

    Raises
    ------
    InputError
        No such format exists or float32 can't hold its values.
    """

    exponent_bits: int
    fraction_bits: int
    bias: int
    specials: Specials = "ieee"
    signed: bool = True
    has_zero: bool = True

    def __post_init__(self) -> None:
        if self.exponent_bits < 1 or self.fraction_bits < 0 or self.bits > 32:
            raise InputError(
                f"no float has {self.exponent_bits} exponent and {self.fraction_bits} fraction "
                "bits; use at least 1 and 0, and with the sign at most 32"
            )
        if self.specials == "fnuz" and not self.signed:
            raise InputError("'fnuz' keeps NaN where -0 would be, so the format needs a sign")
        if self.specials == "ieee" and (self.exponent_bits < 2 or self.fraction_bits < 1):
            raise InputError("'ieee' needs 2 exponent and 1 fraction bit; use 'fn' or 'finite'")
        if self.max_code < 1:
            raise InputError("this format has no number besides NaN; use 'finite'")
        lowest = self.min_exponent - self.fraction_bits
        if lowest < -149 or self.max_exponent > 127:
            raise InputError(
                f"values from 2^{lowest} to 2^{self.max_exponent} don't fit into float32; "
                "choose another bias"
            )

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.signed + self.exponent_bits + self.fraction_bits

    @property
    def max_code(self) -> int:
        """Code of the largest finite number."""
        if self.specials == "ieee":
            return (((1 << self.exponent_bits) - 1) << self.fraction_bits) - 1
        ones = (1 << (self.exponent_bits + self.fraction_bits)) - 1
        return ones - (self.specials == "fn")

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity."""
        return self.max_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        """Code of NaN, where there are several the quiet one without payload; sign bit unset."""
        if self.specials == "ieee":
            return self.max_code + 1 + (1 << (self.fraction_bits - 1))
        if self.specials == "fn":
            return self.max_code + 1
        return 1 << (self.bits - 1) if self.specials == "fnuz" else None

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return int(self.has_zero) - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite number, emax of the MX formats."""
        return max(self.max_code >> self.fraction_bits, int(self.has_zero)) - self.bias

    @property
    def max(self) -> float:
        """The largest finite number."""
        field, fraction = divmod(self.max_code, 1 << self.fraction_bits)
        leading = field > 0 or not self.has_zero
        return math.ldexp(leading + fraction / (1 << self.fraction_bits), self.max_exponent)

    @property
    def min_normal(self) -> float:
        """The smallest normal number."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def min_positive(self) -> float:
        """The smallest positive number, which is subnormal if the format has such."""
        return math.ldexp(1.0, self.min_exponent - self.fraction_bits * self.has_zero)


@dataclass(frozen=True)
class IntElement:
    """Integers; a cast always saturates, and NaN becomes 0.

    Attributes
    ----------
    bits
        2 to 16.
    signed
        Two's complement, or from 0.
    symmetric
        Leave the most negative code out, so that -max is the least.
    """

    bits: int
    signed: bool = True
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise InputError(f"integers of {self.bits} bits aren't supported; use 2 to 16")

    @property
    def max(self) -> float:
        """The largest number."""
        return float((1 << (self.bits - self.signed)) - 1)

    @property
    def min(self) -> float:
        """The smallest number."""
        return (-self.max - (not self.symmetric)) if self.signed else 0.0

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest number."""
        return self.bits - self.signed - 1


@dataclass(frozen=True)
class Codebook:
    """Any increasing values; code i is `values[i]`, and NaN becomes the value nearest to 0."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = zip(self.values, self.values[1:], strict=False)
        if len(self.values) < 2 or not all(a < b for a, b in pairs):
            raise InputError("a codebook needs at least two values, each larger than the last")
        if not all(math.isfinite(value) for value in self.values):
            raise InputError("the values of a codebook must be finite")

    @property
    def bits(self) -> int:
        """Bits of a code, a whole number."""
        return (len(self.values) - 1).bit_length()

    @property
    def max(self) -> float:
        """The largest magnitude."""
        return max(-self.values[0], self.values[-1])

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest magnitude."""
        return math.frexp(self.max)[1] - 1


Element = FloatElement | IntElement | Codebook

FLOAT32 = FloatElement(8, 23, 127)
TF32 = FloatElement(8, 10, 127)
BFLOAT16 = FloatElement(8, 7, 127)
FLOAT16 = FloatElement(5, 10, 15)
E5M2 = FloatElement(5, 2, 15)
E4M3FN = FloatElement(4, 3, 7, "fn")
# Noune et al., 2206.02915: 1.4.3 and 1.5.2 with one exponent more and no infinities.
E4M3FNUZ = FloatElement(4, 3, 8, "fnuz")
E5M2FNUZ = FloatElement(5, 2, 16, "fnuz")
E4M3B11FNUZ = FloatElement(4, 3, 11, "fnuz")
E4M3 = FloatElement(4, 3, 7)
E3M4 = FloatElement(3, 4, 3)
E3M2FN = FloatElement(3, 2, 3, "finite")
E2M3FN = FloatElement(2, 3, 1, "finite")
E2M1 = FloatElement(2, 1, 1, "finite")
# Formats of scales.
E8M0 = FloatElement(8, 0, 127, "fn", signed=False, has_zero=False)
UE5M3 = FloatElement(5, 3, 15, signed=False)
INT8 = IntElement(8)
INT4 = IntElement(4)
# Dettmers et al., 2305.14314, appendix E: quantiles of the normal distribution, and 0.
NF4 = Codebook(
    (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    )
)
