"""Two-electron integrals (ij|kl) over contracted Gaussians, in JAX.

The scheme of McMurchie and Davidson (J. Comput. Phys. 26, 218, 1978; Helgaker, Jorgensen, Olsen,
Molecular Electronic-Structure Theory, 9.9): each product of two orbitals is a sum of Hermite
Gaussians, E; these repel each other as R_tuv, derivatives of the Boys function. So

    (ab|cd) = sum_H sum_K E[ab, H] R[H, K] E[cd, K]

is two matrix products, with all primitives of a pair in H and K. One program serves each pair of
kinds of shell pairs, for all molecules. It goes through a list of work items, a pair on the left
and a tile of pairs on the right, which holds only what Schwarz' inequality leaves.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmgen.dft.basis import Basis
from qmgen.dft.boys import boys
from qmgen.dft.hermite import (
    Powers,
    hermite_coulomb,
    hermite_powers,
)
from qmgen.dft.pair_expansion import Expansion, PairTables, expand_pairs
from qmgen.dft.repulsion_pairs import (
    PRIMITIVE_GROUP,
    PairClass,
    pad_pairs,
    pair_classes,
    shared_shells,
)

# Integrals below this are left out, Hartree.
NEGLIGIBLE_INTEGRAL = 1e-11
# Hermite functions of a tile on the right, about: what a core's second-level cache holds of R.
_TILE_HERMITES = 1600
_MAX_TILE = 32
# Numbers of primitives of pairs on the right that have a loop of their own, so that few pairs are
# padded by much.
_NPRIM = (3, 6, 9, 18)
# Copies of R that are written into a program one by one; more of them would compile for long.
_MOST_COPIES = 256
# Classes are padded to a power of 2 of pairs, and to this many, so that molecules share programs.
_LEAST_ROWS = 128


def _hermite_repulsion(
    p: Array, q: Array, separation: tuple[Array, Array, Array], max_order: int
) -> dict[Powers, Array]:
    """R_tuv over (p + q)^(1/2), for exponents p and q of shapes that broadcast."""
    x, y, z = separation
    total = p + q
    reduced = p * q / total
    inverse_root = 1 / jnp.sqrt(total)
    F = boys(reduced * (x * x + y * y + z * z), max_order)
    return hermite_coulomb([f * inverse_root for f in F], reduced, separation)


# For each size of tile: row on the left, first row on the right, groups of primitives on the left;
# and how many of these items count.
WorkItems = tuple[tuple[Array, Array], ...]


class _Bra(NamedTuple):
    """Pairs on the left of a work item: their primitives come in groups of `PRIMITIVE_GROUP`."""

    exponents: Float[Array, "nbra nprim"]
    centres: Float[Array, "3 nbra nprim"]
    coefficients: Float[Array, "nbra ncomponent nhermite nprim"]


def _half_transformed(
    orders: tuple[int, int], bra: _Bra, q: Float[Array, " nket"], Q: Float[Array, "3 nket"]
) -> Float[Array, "nhermite nbra ncomponent nket"]:
    """sum_H E[ab, H] R[H, K], of one group of primitives on the left."""
    ngroup = bra.exponents.shape[1]
    x, y, z = (bra.centres[k][:, :, None] - Q[k] for k in range(3))
    p = bra.exponents[:, :, None]
    left, right = (hermite_powers(order) for order in orders)
    if len(left) == 1:
        R = _hermite_repulsion(p, q, (x, y, z), sum(orders))
        # Written as a sum, which XLA fuses with what makes R.
        E = bra.coefficients[:, 0, 0, :, None]
        return jnp.stack([sum(E[:, g] * R[k][:, g] for g in range(ngroup)) for k in right])[
            :, :, None
        ]
    # XLA would compute R anew for each place that it is copied to, but for a branch in between.
    R = jax.lax.cond(
        p[0, 0, 0] > 0,
        lambda: _hermite_repulsion(p, q, (x, y, z), sum(orders)),
        lambda: {h: jnp.zeros_like(x) for h in hermite_powers(sum(orders))},
    )
    sums = [(h[0] + k[0], h[1] + k[1], h[2] + k[2]) for k in right for h in left]
    if len(sums) <= _MOST_COPIES:
        matrix = jnp.concatenate([R[tuv] for tuv in sums])
    else:
        place = {tuv: n for n, tuv in enumerate(R)}
        matrix = jnp.concatenate(list(R.values()))[np.array([place[tuv] for tuv in sums])]
    matrix = matrix.reshape(len(right), len(left) * ngroup, q.size)
    E = bra.coefficients.reshape(-1, len(left) * ngroup)
    # E is repeated so that both sides have the batch axis first: XLA then transposes neither.
    half = jax.lax.dot_general(
        jnp.broadcast_to(E, (len(right), *E.shape)),
        matrix,
        (((2,), (1,)), ((0,), (0,))),
        precision=jax.lax.Precision.HIGHEST,
    )
    return half[:, None]


@partial(jax.jit, static_argnames=("orders",))
def class_integrals(
    bra: Expansion, ket: Expansion, items: WorkItems, *, orders: tuple[int, int]
) -> Float[Array, "nbra nket cbra cket"]:
    """Integrals between two classes of pairs; what is not among the items is zero.

    Parameters
    ----------
    bra, ket
        Expansions of the classes.
    items
        What to compute.
    orders
        Largest orders of the Hermite Gaussians on either side.
    """
    rows = _rows_at_a_time(orders[0])
    cbra, cket = bra.coefficients.shape[1], ket.coefficients.shape[1]
    signs = np.array([(-1.0) ** sum(k) for k in hermite_powers(orders[1])])
    result = jnp.zeros(
        (bra.exponents.shape[0], ket.exponents.shape[0], cbra, cket), bra.exponents.dtype
    )
    E_ket = ket.coefficients * jnp.asarray(signs, bra.exponents.dtype)[:, None]
    for (nprim, tile), (places, nitem) in zip(
        _tiles(orders[1], ket.exponents.shape[1]), items, strict=True
    ):

        def add_item(
            n: Int[Array, ""],
            result: Array,
            nprim: int = nprim,
            tile: int = tile,
            places: Array = places,
        ) -> Array:
            i, j, ngroup = places[n, 0], places[n, 1], places[n, 2]

            def rows_of(array: Array, start: Array, size: int) -> Array:
                return jax.lax.dynamic_slice_in_dim(array, start, size)

            q = rows_of(ket.exponents, j, tile)[:, :nprim].reshape(-1)
            Q = jnp.stack([rows_of(x, j, tile)[:, :nprim].reshape(-1) for x in ket.centres])
            left = _Bra(
                rows_of(bra.exponents, i, rows),
                jnp.stack([rows_of(x, i, rows) for x in bra.centres]),
                rows_of(bra.coefficients, i, rows),
            )

            def add_group(g: Int[Array, ""], half: Array) -> Array:
                group = jax.tree.map(
                    lambda x: jax.lax.dynamic_slice_in_dim(
                        x, g * PRIMITIVE_GROUP, PRIMITIVE_GROUP, axis=-1
                    ),
                    left,
                )
                return half + _half_transformed(orders, group, q, Q)

            half = jnp.zeros((len(signs), rows, cbra, q.size), result.dtype)
            half = jax.lax.fori_loop(0, ngroup, add_group, half)
            block = jnp.einsum(
                "hrcnk,ndhk->rncd",
                half.reshape(*half.shape[:3], tile, nprim),
                rows_of(E_ket, j, tile)[..., :nprim],
                precision=jax.lax.Precision.HIGHEST,
            )
            zero = jnp.zeros_like(i)
            return jax.lax.dynamic_update_slice(result, block, (i, j, zero, zero))

        result = jax.lax.fori_loop(0, nitem, add_item, result)
    return result


@dataclass(frozen=True, eq=False)
class RepulsionPlan:
    """What the conformers of a molecule share: padded classes, work items, where results go."""

    classes: tuple[PairClass, ...]
    tables: tuple[PairTables, ...]
    items: tuple[WorkItems, ...]
    index: Int[Array, " neri"]


def plan_repulsion(basis: Basis, positions: Float[np.ndarray, "nconf nat 3"]) -> RepulsionPlan:
    """Decide on classes and screening for the conformers of a molecule, positions in Bohr."""
    found = pair_classes(shared_shells(basis), positions, NEGLIGIBLE_INTEGRAL)
    classes = []
    for pairs in sorted(found, key=lambda c: c.kind.max_l):
        # A tile or a block of rows may begin anywhere, so the longest fits behind the last.
        tiles = _tiles(pairs.kind.max_l, pairs.kind.nprim)
        more = max(_rows_at_a_time(pairs.kind.max_l), *(tile for _, tile in tiles))
        npair = max(_LEAST_ROWS, 2 ** int(np.ceil(np.log2(len(pairs.bound) + more))))
        nprim = PRIMITIVE_GROUP * -(-pairs.kind.nprim // PRIMITIVE_GROUP)
        classes.append(pad_pairs(pairs, npair, nprim))
    items, shapes = [], []
    for i, bra in enumerate(classes):
        for ket in classes[: i + 1]:
            items.append(_work_items(bra, ket))
            shapes.append(
                (len(bra.bound), len(ket.bound), bra.kind.ncomponent, ket.kind.ncomponent)
            )
    return RepulsionPlan(
        classes=tuple(classes),
        tables=tuple(
            PairTables(jnp.asarray(c.atoms), jnp.asarray(c.exponents), jnp.asarray(c.coefficients))
            for c in classes
        ),
        items=tuple(items),
        index=jnp.asarray(_packed_index(basis.nao, classes, shapes)),
    )


def _rows_at_a_time(bra_order: int) -> int:
    """Pairs on the left of one work item; s functions alone are too little work for a program."""
    return 16 if bra_order == 0 else 1


def _tiles(ket_order: int, nprim: int) -> list[tuple[int, int]]:
    """Numbers of primitives of a pair that have loops of their own, and pairs a tile of each."""
    sizes = [n for n in range(nprim, 0, -PRIMITIVE_GROUP) if n == nprim or n in _NPRIM]
    hermites = len(hermite_powers(ket_order))
    return [
        (n, min(_MAX_TILE, max(1, _TILE_HERMITES // (hermites * n)) // 8 * 8 or 1)) for n in sizes
    ]


def _work_items(bra: PairClass, ket: PairClass) -> WorkItems:
    """Items of each size of tile. Rows are sorted by primitives, then by bound, both falling."""
    same = bra is ket
    rows = _rows_at_a_time(bra.kind.max_l)
    nbra, nket = (int(np.count_nonzero(c.nprim)) for c in (bra, ket))
    tiles = _tiles(ket.kind.max_l, ket.exponents.shape[1])
    result = []
    for number, (nprim, tile) in enumerate(tiles):
        less = tiles[number + 1][0] if number + 1 < len(tiles) else 0
        of_size = np.flatnonzero((ket.nprim[:nket] <= nprim) & (ket.nprim[:nket] > less))
        starts = of_size[::tile]
        places = np.array(
            [
                (i, j, -(-int(bra.nprim[i : i + rows].max()) // PRIMITIVE_GROUP))
                for i in range(0, nbra, rows)
                for j in starts
                if (not same or i + rows > j)
                and bra.bound[i : i + rows].max() * ket.bound[j : j + tile].max()
                > NEGLIGIBLE_INTEGRAL
            ],
            np.int32,
        ).reshape(-1, 3)
        padded = np.zeros((-(-len(bra.bound) // rows) * -(-len(ket.bound) // tile), 3), np.int32)
        padded[: len(places)] = places
        result.append((jnp.asarray(padded), jnp.asarray(len(places), jnp.int32)))
    return tuple(result)


def _packed_index(
    nao: int, classes: list[PairClass], shapes: list[tuple[int, int, int, int]]
) -> Int[np.ndarray, " neri"]:
    """Where each distinct integral stands among the classes' results, put one after another.

    Integrals of pairs that were left out point behind them all.
    """
    npair = nao * (nao + 1) // 2
    place = np.full((npair, 3), -1, np.int64)
    for number, pairs in enumerate(classes):
        i, j = pairs.orbitals[..., 0], pairs.orbitals[..., 1]
        row, component = np.nonzero(i >= 0)
        high = np.maximum(i, j)[row, component].astype(np.int64)
        low = np.minimum(i, j)[row, component]
        place[high * (high + 1) // 2 + low] = np.stack(
            [np.full(len(row), number), row, component], axis=1
        )
    sizes = np.array([np.prod(s) for s in shapes], np.int64)
    offset = np.concatenate([[0], np.cumsum(sizes)])
    p, q = np.tril_indices(npair)
    # The class and then the row on the left are the larger ones, as they were computed.
    rank = place[:, 0] * (1 << 40) + place[:, 1]
    swap = rank[p] < rank[q]
    p, q = np.where(swap, q, p), np.where(swap, p, q)
    (cp, np_, kp), (cq, nq, kq) = place[p].T, place[q].T
    block = np.maximum(cp * (cp + 1) // 2 + cq, 0)
    _, n2, c1, c2 = np.array(shapes, np.int64).T
    index = offset[block] + (((np_ * n2[block] + nq) * c1[block]) + kp) * c2[block] + kq
    missing = (cp < 0) | (cq < 0)
    return np.where(missing, offset[-1], index).astype(np.int32)


def electron_repulsion(
    plan: RepulsionPlan, positions: Float[Array, "nat 3"]
) -> Float[Array, " neri"]:
    """Distinct two-electron integrals of one conformer, packed as in `Integrals.eri`, Hartree.

    Parameters
    ----------
    plan
        Of the molecule; the conformer must be among those that it was made for.
    positions
        Of the atoms, Bohr.
    """
    expansions = [
        expand_pairs(t, positions, kind=c.kind)
        for c, t in zip(plan.classes, plan.tables, strict=True)
    ]
    parts: list[Array] = []
    for i, bra in enumerate(plan.classes):
        for j, ket in enumerate(plan.classes[: i + 1]):
            parts.append(
                class_integrals(
                    expansions[i],
                    expansions[j],
                    plan.items[len(parts)],
                    orders=(bra.kind.max_l, ket.kind.max_l),
                )
            )
    return _pack(parts, plan.index)


@jax.jit
def _pack(parts: list[Array], index: Int[Array, " neri"]) -> Float[Array, " neri"]:
    flat = jnp.concatenate([part.ravel() for part in parts] + [jnp.zeros(1, parts[0].dtype)])
    return flat[index]
