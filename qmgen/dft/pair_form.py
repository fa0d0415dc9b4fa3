"""Products of two shells' orbitals as few sums over primitives of Hermite Gaussians.

The McMurchie-Davidson expansion of a product of primitives (Helgaker, Jorgensen, Olsen, Molecular
Electronic-Structure Theory, 9.5) has coefficients that are products of powers of b/p, a/p and 1/2p,
which depend on the primitives, and of A - B, which doesn't. So the sums over primitives need to be
taken of the former only: of few combinations, each with the Hermite Gaussians of one order,
however many orbitals there are. The latter enter when the sums are contracted.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from qmgen.dft.hermite import Powers, cartesian_powers
from qmgen.dft.orbitals import polynomial_coefficients

# Powers of b/p, a/p and 1/2p.
_Factor = tuple[int, int, int]
_Polynomial = dict[_Factor, float]


@dataclass(frozen=True)
class ShellKind:
    """What the program of a shell depends on.

    Attributes
    ----------
    angular
        Angular momenta of the shells that share exponents.
    cartesian
        Those of the angular momenta whose orbitals are Cartesian.
    """

    angular: tuple[int, ...]
    cartesian: tuple[int, ...]

    @property
    def norbital(self) -> int:
        """Number of orbitals."""
        return _to_orbitals(self).shape[1]


@dataclass(frozen=True)
class PairKind:
    """Kinds of the two shells of a pair."""

    a: ShellKind
    b: ShellKind

    @property
    def max_l(self) -> int:
        """Largest sum of angular momenta."""
        return max(self.a.angular) + max(self.b.angular)

    @property
    def ncomponent(self) -> int:
        """Number of products of orbitals."""
        return self.a.norbital * self.b.norbital


@dataclass(frozen=True)
class Weight:
    """A factor of primitives: coefficients of two of the shells times powers.

    Attributes
    ----------
    row_a, row_b
        Which of the shells that share exponents.
    powers
        Of b/p, a/p and 1/2p.
    """

    row_a: int
    row_b: int
    powers: _Factor


@dataclass(frozen=True)
class Term:
    """Part of a product of orbitals: a number times a monomial of A - B times a sum."""

    number: float
    monomial: int
    sum: int


@dataclass(frozen=True)
class PairForm:
    """How products of two shells' orbitals follow from sums over primitives.

    Attributes
    ----------
    weights
        For each order of Hermite Gaussians, the factors that go with all Hermite Gaussians of that
        order. The sums are counted in this order: by order, weight, Hermite Gaussian.
    monomials
        Powers of A - B that occur.
    components
        Terms of each product of orbitals, the second shell's orbital running faster.
    """

    weights: tuple[tuple[Weight, ...], ...]
    monomials: tuple[Powers, ...]
    components: tuple[tuple[Term, ...], ...]

    @property
    def nsum(self) -> int:
        """Number of sums."""
        return sum(len(w) * len(cartesian_powers(n)) for n, w in enumerate(self.weights))


@lru_cache(maxsize=256)
def _axis_expansion(i: int, j: int) -> tuple[_Polynomial, ...]:
    """E_t^ij along one axis for t = 0 to i + j, without the powers of A - B (9.5.6 and 9.5.7).

    P - A is -b/p (A - B) and P - B is a/p (A - B), so that each power of b/p or a/p goes with one
    of A - B.
    """
    if i == j == 0:
        return ({(0, 0, 0): 1.0},)
    lower = _axis_expansion(i, j - 1) if j else _axis_expansion(i - 1, j)
    distance, sign = ((0, 1, 0), 1.0) if j else ((1, 0, 0), -1.0)
    result = []
    for t in range(len(lower) + 1):
        total: defaultdict[_Factor, float] = defaultdict(float)
        for power, shift, number in (
            (t - 1, (0, 0, 1), 1.0),
            (t, distance, sign),
            (t + 1, (0, 0, 0), t + 1.0),
        ):
            for factor, value in lower[power].items() if 0 <= power < len(lower) else ():
                total[_product(factor, shift)] += number * value
        result.append(dict(total))
    return tuple(result)


def _product(*factors: _Factor) -> _Factor:
    x, y, z = (sum(powers) for powers in zip(*factors, strict=True))
    return x, y, z


@lru_cache(maxsize=256)
def pair_form(kind: PairKind) -> PairForm:
    """Form of all products of two shells' orbitals."""
    # Of each product of monomials: (weight, Hermite Gaussian, monomial of A - B) to a number.
    cartesian: list[defaultdict[tuple[Weight, Powers, Powers], float]] = []
    for row_a, power_a in _cartesian_functions(kind.a):
        for row_b, power_b in _cartesian_functions(kind.b):
            terms: defaultdict[tuple[Weight, Powers, Powers], float] = defaultdict(float)
            axes = [_axis_expansion(i, j) for i, j in zip(power_a, power_b, strict=True)]
            for hermite in np.ndindex(*map(len, axes)):
                chosen = [axis[t].items() for axis, t in zip(axes, hermite, strict=True)]
                for fx, x in chosen[0]:
                    for fy, y in chosen[1]:
                        for fz, z in chosen[2]:
                            weight = Weight(row_a, row_b, _product(fx, fy, fz))
                            monomial = (fx[0] + fx[1], fy[0] + fy[1], fz[0] + fz[1])
                            terms[weight, hermite, monomial] += x * y * z
            cartesian.append(terms)

    # The order of the Hermite Gaussian follows from the powers, as 1/2p, A - B and the Hermite
    # Gaussian have the dimensions of a length squared, a length and an inverse length.
    by_order: list[list[Weight]] = [[] for _ in range(kind.max_l + 1)]
    for terms in cartesian:
        for weight, hermite, _ in terms:
            if weight not in by_order[sum(hermite)]:
                by_order[sum(hermite)].append(weight)
    number: dict[tuple[Weight, Powers], int] = {}
    for order, weights in enumerate(by_order):
        for weight in weights:
            for hermite in cartesian_powers(order):
                number[weight, hermite] = len(number)
    monomials = list(dict.fromkeys(m for terms in cartesian for _, _, m in terms))

    Ta, Tb = _to_orbitals(kind.a), _to_orbitals(kind.b)
    nb = Tb.shape[0]
    components = []
    for a in Ta.T:
        for b in Tb.T:
            total: defaultdict[tuple[int, int], float] = defaultdict(float)
            for i, j in zip(*np.nonzero(np.outer(a, b)), strict=True):
                for (weight, hermite, monomial), value in cartesian[i * nb + j].items():
                    place = monomials.index(monomial), number[weight, hermite]
                    total[place] += float(a[i] * b[j]) * value
            components.append(tuple(Term(v, m, s) for (m, s), v in total.items() if v))
    return PairForm(tuple(map(tuple, by_order)), tuple(monomials), tuple(components))


def _cartesian_functions(kind: ShellKind) -> list[tuple[int, Powers]]:
    """Row of coefficients and powers of x, y, z of each Cartesian function of a shell."""
    return [
        (row, powers)
        for row, degree in enumerate(kind.angular)
        for powers in cartesian_powers(degree)
    ]


@lru_cache(maxsize=64)
def _to_orbitals(kind: ShellKind) -> Float[np.ndarray, "ncart norbital"]:
    """Orbitals of a shell over its Cartesian functions."""
    blocks = [polynomial_coefficients(x, x in kind.cartesian) for x in kind.angular]
    result = np.zeros((sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks)))
    i = j = 0
    for block in blocks:
        result[i : i + block.shape[0], j : j + block.shape[1]] = block
        i, j = i + block.shape[0], j + block.shape[1]
    return result
