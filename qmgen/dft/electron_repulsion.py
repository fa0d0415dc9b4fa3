"""Two-electron integrals (ij|kl) over contracted Gaussians, in JAX, for a molecule's conformers.

A plan, made once for a molecule, sorts pairs of shells into classes and lists the blocks of pairs
whose integrals matter for any of the conformers, by Schwarz' inequality; small ones are computed in
float32. `qmgen.dft.repulsion_class` has the program of two classes, which molecules share.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmgen.dft.basis import Basis
from qmgen.dft.pair_expansion import PairTables, expand_pairs, pair_tables
from qmgen.dft.repulsion_class import ClassKind, class_integrals
from qmgen.dft.repulsion_pairs import (
    PRIMITIVE_GROUP,
    PairClass,
    pad_pairs,
    pair_classes,
    shared_shells,
)

# Integrals below this are left out, Hartree.
NEGLIGIBLE_INTEGRAL = 1e-11
# Integrals below this are computed in float32, whose rounding then is 3e-7 of it, Hartree.
SINGLE_PRECISION_INTEGRAL = 1e-4
# Classes are padded to 2^n or 3 2^n pairs from this many on, so that molecules share programs.
_LEAST_PAIRS = 16


@dataclass(frozen=True, eq=False)
class _ClassWork:
    """Blocks of two classes that one program computes, in one precision."""

    bra: int
    ket: int
    kind: ClassKind
    items: Int[Array, "nplace 4"]
    nitem: Int[Array, ""]


@dataclass(frozen=True, eq=False)
class RepulsionPlan:
    """What the conformers of a molecule share.

    Attributes
    ----------
    classes, tables
        Pairs of shells, padded.
    work
        What is computed.
    index
        Where each distinct integral stands among the results, put one after the other.
    """

    classes: tuple[PairClass, ...]
    tables: tuple[PairTables, ...]
    work: tuple[_ClassWork, ...]
    index: Int[Array, " neri"]


def plan_repulsion(
    basis: Basis,
    positions: Float[np.ndarray, "nconf nat 3"],
    single_below: float = SINGLE_PRECISION_INTEGRAL,
) -> RepulsionPlan:
    """Decide on classes and screening for the conformers of a molecule.

    Parameters
    ----------
    basis
        Of the molecule.
    positions
        Of all conformers that integrals will be asked for, Bohr.
    single_below
        Integrals below this, in Hartree, are computed in float32; 0 for none.
    """
    found = pair_classes(shared_shells(basis), positions, NEGLIGIBLE_INTEGRAL)
    classes = []
    for pairs in sorted(found, key=lambda c: c.kind.max_l):
        # A block may begin at the last pair.
        classes.append(pad_pairs(pairs, padded_length(len(pairs.bound) + 15, _LEAST_PAIRS)))
    work, places = [], []
    offset = 0
    for i, bra in enumerate(classes):
        for j, ket in enumerate(classes[: i + 1]):
            blocks, items = _blocks(bra, ket, single_below)
            place = np.full(blocks.shape, -1, np.int64)
            tile = _tile(bra, ket)
            size = bra.kind.ncomponent * ket.kind.ncomponent * tile
            for precision, code in (("float64", 2), ("float32", 1)):
                mine = blocks == code
                number = int(np.count_nonzero(mine))
                if not number:
                    continue
                padded = np.zeros((padded_length(number, 64), 4), np.int32)
                padded[:number] = items[mine]
                place[mine] = offset + size * np.arange(number)
                offset += size * len(padded)
                work.append(
                    _ClassWork(
                        i,
                        j,
                        ClassKind(bra.kind, ket.kind, tile, precision),
                        jnp.asarray(padded),
                        jnp.asarray(number, jnp.int32),
                    )
                )
            places.append(place)
    return RepulsionPlan(
        classes=tuple(classes),
        tables=tuple(pair_tables(c) for c in classes),
        work=tuple(work),
        index=jnp.asarray(_packed_index(basis.nao, classes, places, offset)),
    )


def padded_length(number: int, least: int) -> int:
    """Smallest of least, 1.5 least, 2 least, 3 least, 4 least ... that is not below a number."""
    size = least
    while size < number:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def _tile(bra: PairClass, ket: PairClass) -> int:
    """Pairs on the right of a block: its arrays fill a good part of a core's second-level cache."""
    return {0: 16, 1: 8, 2: 4}.get(bra.kind.max_l + ket.kind.max_l, 2)


def _blocks(
    bra: PairClass, ket: PairClass, single_below: float
) -> tuple[Int[np.ndarray, "nleft nright"], Int[np.ndarray, "nleft nright 4"]]:
    """What to do with each block of pairs (0 leave out, 1 float32, 2 float64), and its item."""
    tile = _tile(bra, ket)
    starts, bounds, groups = [], [], []
    for pairs, size in ((bra, 1), (ket, tile)):
        npair = int(np.count_nonzero(pairs.nprim))
        start = np.arange(0, npair, size)
        starts.append(start)
        bounds.append(np.maximum.reduceat(pairs.bound[:npair], start))
        most = np.maximum.reduceat(pairs.nprim[:npair], start)
        groups.append(-(-most // PRIMITIVE_GROUP))
    bound = bounds[0][:, None] * bounds[1]
    code = (bound > NEGLIGIBLE_INTEGRAL).astype(np.int8) + (
        (bound > max(single_below, NEGLIGIBLE_INTEGRAL)).astype(np.int8)
    )
    if bra is ket:
        code[starts[0][:, None] < starts[1]] = 0
    shape = bound.shape
    items = np.stack(
        [
            np.broadcast_to(x, shape)
            for x in (starts[0][:, None], starts[1], groups[0][:, None], groups[1])
        ],
        axis=-1,
    )
    return code, items


def _packed_index(
    nao: int, classes: list[PairClass], places: list[Int[np.ndarray, "nleft nright"]], end: int
) -> Int[np.ndarray, " neri"]:
    """Where each distinct integral stands; those that were left out stand behind all others."""
    npair = nao * (nao + 1) // 2
    # Class, row in the class, and component of each pair of orbitals.
    where = np.full((npair, 3), -1, np.int64)
    for number, pairs in enumerate(classes):
        i, j = pairs.orbitals[..., 0], pairs.orbitals[..., 1]
        row, component = np.nonzero(i >= 0)
        high = np.maximum(i, j)[row, component].astype(np.int64)
        low = np.minimum(i, j)[row, component]
        where[high * (high + 1) // 2 + low] = np.stack(
            [np.full(len(row), number), row, component], axis=1
        )
    # Shapes and places of each pair of classes in one table.
    tiles = [_tile(bra, ket) for i, bra in enumerate(classes) for ket in classes[: i + 1]]
    starts = np.cumsum([0, *(p.size for p in places)])
    flat = np.concatenate([p.ravel() for p in places])
    columns = np.array([p.shape[1] for p in places])
    tile = np.array(tiles)
    ncomponent = np.array([c.kind.ncomponent for c in classes])

    index = np.empty(npair * (npair + 1) // 2, np.int64)
    rank = where[:, 0] * (1 << 40) + where[:, 1]
    for p in range(npair):
        q = np.arange(p + 1)
        # The class and then the row on the left are the larger ones, as they were computed.
        swap = rank[p] < rank[q]
        left, right = (
            [np.where(swap, b, a) for a, b in zip(where[p], where[q].T, strict=True)],
            [np.where(swap, a, b) for a, b in zip(where[p], where[q].T, strict=True)],
        )
        pair = left[0] * (left[0] + 1) // 2 + right[0]
        missing = (left[0] < 0) | (right[0] < 0)
        pair = np.where(missing, 0, pair)
        T = tile[pair]
        block = starts[pair] + left[1] * columns[pair] + right[1] // T
        place = np.where(missing, -1, flat[np.where(missing, 0, block)])
        within = right[2] * ncomponent[left[0]] + left[2]
        within = within * T + right[1] % T
        index[p * (p + 1) // 2 : (p + 1) * (p + 2) // 2] = np.where(place < 0, end, place + within)
    return index.astype(np.int32)


def electron_repulsion(
    plan: RepulsionPlan, positions: Float[Array, "nconf nat 3"]
) -> Float[Array, "nconf neri"]:
    """Distinct two-electron integrals, packed as in `Integrals.eri`, Hartree.

    Parameters
    ----------
    plan
        Of the molecule; the conformers must be among those that it was made for.
    positions
        Of the atoms, Bohr.
    """
    last = jnp.moveaxis(positions, 0, -1)
    expansions = [
        expand_pairs(t, last, kind=c.kind) for c, t in zip(plan.classes, plan.tables, strict=True)
    ]
    parts = [
        class_integrals(expansions[w.bra], expansions[w.ket], w.items, w.nitem, kind=w.kind)
        for w in plan.work
    ]
    return _pack(parts, plan.index)


@jax.jit
def _pack(parts: list[Array], index: Int[Array, " neri"]) -> Float[Array, "nconf neri"]:
    nconf = parts[0].shape[-1]
    rows = [part.reshape(-1, nconf).astype(jnp.float64) for part in parts]
    flat = jnp.concatenate([*rows, jnp.zeros((1, nconf))])
    return flat.at[index].get(mode="clip").T
