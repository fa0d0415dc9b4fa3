"""Codebooks for numbers whose distribution is known, and for those at hand.

Orr et al., 2505.12988: the squared error of a fixed number of codes is least where their density is
the cube root of that of the numbers, which for these families is the same family, wider. Lloyd's
iteration finds the codebook of numbers themselves, to which the others come within a percent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.stats
from jaxtyping import Float

from qmgen.efficiency.element import Codebook
from qmgen.errors import InputError

_EULER = 0.5772156649015329
# Parts for each code in which the density of numbers is estimated.
_PARTS = 16


@dataclass(frozen=True)
class Distribution:
    """A distribution of unit RMS around 0.

    Attributes
    ----------
    family
        "normal", "laplace" or "student_t".
    degrees_of_freedom
        nu > 2 of Student's t, whose RMS is infinite otherwise.

    Raises
    ------
    InputError
        Degrees of freedom are missing, too few, or given for another family.
    """

    family: Literal["normal", "laplace", "student_t"]
    degrees_of_freedom: float | None = None

    def __post_init__(self) -> None:
        nu = self.degrees_of_freedom
        if (nu is not None) != (self.family == "student_t"):
            raise InputError("degrees of freedom belong to Student's t, and to it alone")
        if nu is not None and not 2 < nu < math.inf:
            raise InputError(f"Student's t with {nu} degrees of freedom has no RMS; give over 2")

    @property
    def title(self) -> str:
        """For tables."""
        if self.family == "student_t":
            return f"Student t{self._nu:g}"
        return self.family.replace("laplace", "Laplace")

    @property
    def density(self) -> Any:
        """The distribution as one of SciPy's."""
        if self.family == "normal":
            return scipy.stats.norm()
        if self.family == "laplace":
            return scipy.stats.laplace(scale=1 / math.sqrt(2))
        nu = self._nu
        return scipy.stats.t(nu, scale=math.sqrt((nu - 2) / nu))

    @property
    def cube_root(self) -> Any:
        """The distribution whose density is proportional to the cube root of this one's."""
        if self.family == "normal":
            return scipy.stats.norm(scale=math.sqrt(3))
        if self.family == "laplace":
            return scipy.stats.laplace(scale=3 / math.sqrt(2))
        return scipy.stats.t((self._nu - 2) / 3, scale=math.sqrt(3))

    def expected_absmax(self, block: int) -> float:
        """Mean of the largest magnitude of so many numbers, approximately.

        Raises
        ------
        InputError
            The block has fewer than 4 numbers, for which the approximation says nothing.
        """
        if block < 4:
            raise InputError(f"the absmax of {block} numbers can't be estimated; use 4 or more")
        if self.family == "laplace":
            return (_EULER + math.log(block)) / math.sqrt(2)
        gaussian = 2 * math.log(block / math.pi)
        if self.family == "normal":
            return math.sqrt(gaussian)
        return float(block ** (1 / self._nu) * gaussian ** ((self._nu - 3) / (2 * self._nu)))

    @property
    def _nu(self) -> float:
        assert self.degrees_of_freedom is not None
        return self.degrees_of_freedom


NORMAL = Distribution("normal")
LAPLACE = Distribution("laplace")


def student_t(degrees_of_freedom: float) -> Distribution:
    """Student's t, with heavier tails the fewer its degrees of freedom."""
    return Distribution("student_t", degrees_of_freedom)


def rms_codebook(distribution: Distribution, codes: int) -> Codebook:
    """Values for numbers of unit RMS: `ScaleFormat(statistic="rms", target=1.0)`.

    Equal steps of the cube-root distribution, both ends left out. An even number of codes has no 0.

    Raises
    ------
    InputError
        Fewer than two codes.
    """
    _check(codes)
    levels = np.linspace(0, 1, codes + 2)[1:-1]
    return Codebook(tuple(_quantiles(distribution.cube_root, levels, math.inf).tolist()))


def absmax_codebook(
    distribution: Distribution,
    codes: int,
    block: int,
    variant: Literal["symmetric", "asymmetric", "signmax"] = "symmetric",
) -> Codebook:
    """Values in [-1, 1] for blocks over their absmax.

    Equal steps of the cube-root distribution, cut off at the absmax to be expected.

    Parameters
    ----------
    codes
        Even for the variants that aren't symmetric.
    block
        Numbers that share a scale, 4 or more.
    variant
        "symmetric": both ends, and no 0 if the number of codes is even. "asymmetric": both ends and
        0, so one value fewer below 0 than above. "signmax": 0 and the upper end alone, for scales
        of the statistic "signmax".

    Raises
    ------
    InputError
        Too few or an odd number of codes, or too small a block.
    """
    _check(codes)
    if variant == "symmetric":
        levels = np.linspace(0, 1, codes)
    else:
        if codes % 2:
            raise InputError(f"half of {codes} codes is no number; use an even one")
        half = codes // 2
        negative = np.linspace(0, 0.5, half if variant == "asymmetric" else half + 1)[-half:]
        levels = np.concatenate([negative, np.linspace(0.5, 1, half + 1)[1:]])
    largest = distribution.expected_absmax(block)
    values = _quantiles(distribution.cube_root, levels, largest) / largest
    return Codebook(tuple(values.tolist()))


def lloyd_max(
    x: Float[np.ndarray, "..."], codes: int, tolerance: float = 1e-8, iterations: int = 10_000
) -> Codebook:
    """Values of least squared error for the numbers at hand, by Lloyd's iteration.

    Parameters
    ----------
    x
        Numbers of any shape, at least as many different ones as codes. Their scale stays.
    tolerance
        Relative decrease of the squared error in an iteration at which to stop.
    iterations
        At most so many.

    Raises
    ------
    InputError
        Too few codes or numbers, or a number isn't finite.
    """
    _check(codes)
    ordered = np.sort(np.asarray(x, np.float64).ravel())
    if not np.isfinite(ordered).all():
        raise InputError("a codebook can be fitted to finite numbers only")
    if 1 + np.count_nonzero(np.diff(ordered)) < codes:
        raise InputError(f"{codes} values can't be fitted to fewer different numbers")
    values = _first_values(ordered, codes)
    ranks = np.arange(len(ordered)) + 0.5
    # First between the numbers: cells of few numbers, as in the tails, would not move otherwise.
    values = _iterate(
        ordered, values, lambda middles: np.interp(middles, ordered, ranks), tolerance, iterations
    )
    values = _iterate(
        ordered, values, lambda middles: np.searchsorted(ordered, middles), tolerance, iterations
    )
    return Codebook(tuple(values.tolist()))


def _iterate(
    ordered: Float[np.ndarray, " n"],
    values: Float[np.ndarray, " codes"],
    rank: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    iterations: int,
) -> Float[np.ndarray, " codes"]:
    """Move each value to the mean of the numbers that it is nearest to, again and again."""
    places, sums = np.arange(len(ordered) + 1.0), np.concatenate([[0.0], np.cumsum(ordered)])
    total, last = float(ordered @ ordered), math.inf
    for _ in range(iterations):
        cuts = rank((values[1:] + values[:-1]) / 2)
        bounds = np.concatenate([[0], cuts, [len(ordered)]])
        counts, parts = np.diff(bounds), np.diff(np.interp(bounds, places, sums))
        # A value that is nearest to no number stays; its neighbours move towards it.
        values = np.where(counts > 0, parts / np.maximum(counts, 1e-300), values)
        # Around the mean of each cell the squares that remain are those of all less those of means.
        error = total - float(np.sum(counts * values**2))
        if last - error <= tolerance * error:
            break
        last = error
    return values


def _first_values(ordered: Float[np.ndarray, " n"], codes: int) -> Float[np.ndarray, " codes"]:
    """Numbers in equal steps of the cube root of their density; quantiles if these coincide."""
    edges = np.linspace(0, len(ordered) - 1, _PARTS * codes + 1).astype(np.int64)
    # The density is one over the width of an equal part; its cube root times the width is this.
    mass = np.concatenate([[0.0], np.cumsum(np.diff(ordered[edges]) ** (2 / 3))])
    levels = (np.arange(codes) + 0.5) / codes
    between = np.interp(levels * mass[-1], mass, ordered[edges])
    values = ordered[np.searchsorted(ordered, between)]
    if np.all(np.diff(values) > 0):
        return values
    different = np.unique(ordered)
    return different[(levels * len(different)).astype(np.int64)]


def _quantiles(
    density: Any, levels: Float[np.ndarray, " n"], largest: float
) -> Float[np.ndarray, " n"]:
    """Quantiles of a symmetric density that is cut off at ±largest."""
    inside = 2 * float(density.cdf(largest)) - 1
    away = np.abs(levels - 0.5)
    magnitudes = np.where(away == 0, 0.0, density.ppf(0.5 + away * inside))
    magnitudes = np.where(away == 0.5, largest, magnitudes)
    return np.copysign(magnitudes, levels - 0.5)


def _check(codes: int) -> None:
    if not 2 <= codes <= 1 << 16:
        raise InputError(f"a codebook of {codes} values isn't supported; use 2 to 65536")
