"""Two-electron integrals (ij|kl) over contracted Gaussians, in JAX, for a molecule's conformers.

A plan, made once for a molecule, sorts pairs of shells into classes and lists the blocks of pairs
whose integrals matter for any of the conformers, by Schwarz' inequality; small ones are computed in
float32. `qmgen.dft.repulsion_class` has the program of two classes, which molecules share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmgen.dft.basis import Basis
from qmgen.dft.pair_expansion import (
    Expansion,
    PairTables,
    expand_pairs,
    expansion_gradient,
    pair_tables,
)
from qmgen.dft.repulsion_class import ClassKind, class_integrals
from qmgen.dft.repulsion_class_gradient import PairCotangents, class_gradient
from qmgen.dft.repulsion_pairs import (
    PRIMITIVE_GROUP,
    PairClass,
    pad_pairs,
    pair_classes,
    shared_shells,
    split_pairs,
)

# Integrals below this are left out, Hartree.
NEGLIGIBLE_INTEGRAL = 1e-11
# Integrals below this are computed in float32, whose rounding then is 3e-7 of it, Hartree.
SINGLE_PRECISION_INTEGRAL = 1e-4
# Pairs of a class as programs take it, the same for all molecules, which so share them. Larger
# classes are cut; nine heavy atoms have up to 300.
_CLASS_SIZE = 512
# Of which at most so many are real: a block, of up to 16 pairs, may begin at the last one.
_MOST_PAIRS = _CLASS_SIZE - 15
# Numbers of atoms are padded to a multiple of this.
_ATOM_STEP = 32
# What is done with a block of pairs.
_LEFT_OUT, _SINGLE, _DOUBLE = range(3)
# Blocks that a GPU computes at once; a divisor of the numbers in `_items_at_a_time`.
_BLOCKS_SIDE_BY_SIDE = 128
# Rows of 64 numbers that fill a part of a core's second-level cache.
_ROWS_AT_A_TIME = 2048


@dataclass(frozen=True, eq=False)
class _ClassWork:
    """Blocks of two classes that one call of a program computes, in one precision.

    ``source`` and ``target`` are places of integrals in the result, flattened but for conformers,
    and among all distinct integrals of the molecule, in the order of the latter.
    """

    bra: int
    ket: int
    kind: ClassKind
    items: Int[Array, "nplace 4"]
    nitem: Int[Array, ""]
    source: Int[np.ndarray, " nvalue"]
    target: Int[np.ndarray, " nvalue"]


@dataclass(frozen=True, eq=False)
class RepulsionPlan:
    """What the conformers of a molecule share.

    Attributes
    ----------
    classes, tables
        Pairs of shells, padded.
    work
        What is computed.
    neri
        Number of distinct integrals.
    """

    classes: tuple[PairClass, ...]
    tables: tuple[PairTables, ...]
    work: tuple[_ClassWork, ...]
    neri: int


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
        classes += [pad_pairs(part, _CLASS_SIZE) for part in split_pairs(pairs, _MOST_PAIRS)]
    pair_numbers = [_pair_numbers(c) for c in classes]
    work = []
    for i, bra in enumerate(classes):
        for j, ket in enumerate(classes[: i + 1]):
            codes, items = _blocks(bra, ket, single_below)
            for precision, code in (("float64", _DOUBLE), ("float32", _SINGLE)):
                kind = ClassKind(bra.kind, ket.kind, _tile(bra, ket), precision)
                chosen = items[codes == code]
                for start in range(0, len(chosen), size := _items_at_a_time(kind)):
                    some = chosen[start : start + size]
                    padded = np.zeros((size, 4), np.int32)
                    padded[: len(some)] = some
                    number = jnp.asarray(len(some), jnp.int32)
                    places = _places(some, kind.tile, pair_numbers[i], pair_numbers[j], same=i == j)
                    work.append(_ClassWork(i, j, kind, jnp.asarray(padded), number, *places))
    npair = basis.nao * (basis.nao + 1) // 2
    return RepulsionPlan(
        classes=tuple(classes),
        tables=tuple(pair_tables(c) for c in classes),
        work=tuple(work),
        neri=npair * (npair + 1) // 2,
    )


def _items_at_a_time(kind: ClassKind) -> int:
    """Blocks that one call of a program computes, whose integrals fill some ten megabytes."""
    return 128 if _block_size(kind) > 256 else 1024


def _tile(bra: PairClass, ket: PairClass) -> int:
    """Pairs on the right of a block: its arrays fill a good part of a core's second-level cache."""
    return {0: 16, 1: 8, 2: 4}.get(bra.kind.max_l + ket.kind.max_l, 2)


def _blocks(
    bra: PairClass, ket: PairClass, single_below: float
) -> tuple[Int[np.ndarray, "nleft nright"], Int[np.ndarray, "nleft nright 4"]]:
    """What to do with each block of pairs, and its item for the program."""
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
    code = np.where(bound > single_below, _DOUBLE, _SINGLE)
    code[bound <= NEGLIGIBLE_INTEGRAL] = _LEFT_OUT
    if bra is ket:
        code[starts[0][:, None] < starts[1]] = _LEFT_OUT
    shape = bound.shape
    items = np.stack(
        [
            np.broadcast_to(x, shape)
            for x in (starts[0][:, None], starts[1], groups[0][:, None], groups[1])
        ],
        axis=-1,
    )
    return code, items


def _pair_numbers(pairs: PairClass) -> Int[np.ndarray, "npair ncomponent"]:
    """Number i (i + 1) / 2 + j, i >= j, of each product's two orbitals; -1 for padding."""
    i, j = pairs.orbitals[..., 0].astype(np.int64), pairs.orbitals[..., 1]
    return np.where(i < 0, -1, _triangle(i, j))


def _triangle(a: Int[np.ndarray, "..."], b: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    high, low = np.maximum(a, b), np.minimum(a, b)
    return high * (high + 1) // 2 + low


def _places(
    items: Int[np.ndarray, "nitem 4"],
    tile: int,
    bra: Int[np.ndarray, "nbra cbra"],
    ket: Int[np.ndarray, "nket cket"],
    *,
    same: bool,
) -> tuple[Int[np.ndarray, " nvalue"], Int[np.ndarray, " nvalue"]]:
    """Places of the integrals of some blocks in their result and among all distinct integrals.

    Each integral has one place in all blocks together: a derivative would count it twice. So where
    both classes are the same, (cd|ab) is not taken beside (ab|cd).
    """
    p = bra[items[:, 0]][:, None, :, None]
    rows = items[:, 1, None] + np.arange(tile)
    q = ket[rows].transpose(0, 2, 1)[:, :, None, :]
    valid = (p >= 0) & (q >= 0)
    if same:
        valid &= (rows <= items[:, 0, None])[:, None, None, :]
    target = np.where(valid, _triangle(p, q), -1).ravel()
    # Integrals that a block has twice, (ab|cd) and (ba|cd) say, are taken once.
    target, source = np.unique(target, return_index=True)
    valid = target >= 0
    return source[valid].astype(np.int32), target[valid].astype(np.int32)


def electron_repulsion(
    plan: RepulsionPlan,
    positions: Float[np.ndarray, "nconf nat 3"],
    side_by_side: int | None = None,
) -> Float[Array | np.ndarray, "nconf neri"]:
    """Distinct two-electron integrals, packed as in `Integrals.eri`, Hartree.

    Parameters
    ----------
    plan
        Of the molecule; the conformers must be among those that it was made for.
    positions
        Of the atoms, Bohr.
    side_by_side
        Blocks of pairs computed at once; by default 1 on a CPU and many on other devices, where the
        result stays.
    """
    if side_by_side is None:
        side_by_side = 1 if jax.default_backend() == "cpu" else _BLOCKS_SIDE_BY_SIDE
    expansions = _expansions(plan, positions)
    results = (
        class_integrals(
            expansions[work.bra],
            expansions[work.ket],
            work.items,
            work.nitem,
            kind=work.kind,
            side_by_side=side_by_side,
        ).reshape(-1, positions.shape[0])
        for work in plan.work
    )
    order = _ordered if side_by_side == 1 else _ordered_on_device
    return order(plan, results, positions.shape[0])


def _ordered(
    plan: RepulsionPlan, results: Iterable[Float[Array, "_nvalue nconf"]], nconf: int
) -> Float[np.ndarray, "nconf neri"]:
    # On a CPU the arrays are only looked at: NumPy copies rows ten times as fast as XLA.
    values = [np.asarray(result) for result in results]
    ordered = np.empty((nconf, plan.neri))
    # A block stays within the cache while it is filled and transposed.
    block = np.empty((_ROWS_AT_A_TIME, nconf))
    for start, stop, parts in _blocks_in_order(plan):
        block[:] = 0
        for work, rows, some in zip(plan.work, values, parts, strict=True):
            block[work.target[some] - start] = rows[work.source[some]]
        ordered[:, start:stop] = block[: stop - start].T
    return ordered


def _ordered_on_device(
    plan: RepulsionPlan, results: Iterable[Float[Array, "_nvalue nconf"]], nconf: int
) -> Float[Array, "nconf neri"]:
    ordered = jnp.zeros((plan.neri, nconf))
    for work, rows in zip(plan.work, results, strict=True):
        ordered = _placed(ordered, rows, work.source, work.target)
    return ordered.T


@partial(jax.jit, donate_argnums=0)
def _placed(
    ordered: Float[Array, "neri nconf"],
    rows: Float[Array, "_nvalue nconf"],
    source: Int[Array, " nplaced"],
    target: Int[Array, " nplaced"],
) -> Float[Array, "neri nconf"]:
    """Integrals with those of some blocks put where they belong."""
    values = rows.at[source].get(mode="promise_in_bounds").astype(ordered.dtype)
    return ordered.at[target].set(
        values, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
    )


def electron_repulsion_gradient(
    plan: RepulsionPlan,
    positions: Float[np.ndarray, "nconf nat 3"],
    cotangents: Float[np.ndarray, "nconf neri"],
) -> Float[np.ndarray, "nconf nat 3"]:
    """Gradient of a linear combination of the integrals that `electron_repulsion` gives.

    Parameters
    ----------
    plan, positions
        As for `electron_repulsion`.
    cotangents
        Factors of the integrals of each conformer.

    Returns
    -------
    Derivatives by the positions, Hartree / Bohr times the factors' unit.
    """
    nconf = positions.shape[0]
    factors = [
        np.zeros((len(w.items) * _block_size(w.kind), nconf), w.kind.precision) for w in plan.work
    ]
    for start, stop, parts in _blocks_in_order(plan):
        block = np.ascontiguousarray(cotangents[:, start:stop].T)
        for work, rows, some in zip(plan.work, factors, parts, strict=True):
            rows[work.source[some]] = block[work.target[some] - start]
    expansions = _expansions(plan, positions)
    derivatives: list[PairCotangents | None] = [None] * len(plan.classes)
    for work, rows in zip(plan.work, factors, strict=True):
        bra, ket, kind = expansions[work.bra], expansions[work.ket], work.kind
        shape = len(work.items), kind.ket.ncomponent, kind.bra.ncomponent, kind.tile, nconf
        of_sides = class_gradient(
            bra, ket, work.items, work.nitem, jnp.asarray(rows.reshape(shape)), kind=kind
        )
        for side, part in zip((work.bra, work.ket), of_sides, strict=True):
            before = derivatives[side]
            derivatives[side] = part if before is None else jax.tree.map(jnp.add, before, part)
    last = _conformers_last(positions)
    gradients = [
        expansion_gradient(tables, last, by.primitives, by.monomials, kind=pairs.kind)
        for pairs, tables, by in zip(plan.classes, plan.tables, derivatives, strict=True)
        if by is not None
    ]
    total = np.sum([np.asarray(g) for g in gradients], axis=0)
    return np.moveaxis(total, -1, 0)[:, : positions.shape[1]]


def _conformers_last(positions: Float[np.ndarray, "nconf nat 3"]) -> Float[Array, "npad 3 nconf"]:
    more = -positions.shape[1] % _ATOM_STEP
    return jnp.asarray(np.pad(np.moveaxis(positions, 0, -1), ((0, more), (0, 0), (0, 0))))


def _expansions(
    plan: RepulsionPlan, positions: Float[np.ndarray, "nconf nat 3"]
) -> list[Expansion]:
    last = _conformers_last(positions)
    return [
        expand_pairs(t, last, kind=c.kind) for c, t in zip(plan.classes, plan.tables, strict=True)
    ]


def _block_size(kind: ClassKind) -> int:
    return kind.bra.ncomponent * kind.ket.ncomponent * kind.tile


def _blocks_in_order(plan: RepulsionPlan) -> Iterator[tuple[int, int, list[slice]]]:
    """Ranges of all distinct integrals, and where each program's places within them stand."""
    starts = np.arange(0, plan.neri, _ROWS_AT_A_TIME)
    cuts = [np.searchsorted(w.target, [*starts, plan.neri]) for w in plan.work]
    for number, start in enumerate(starts.tolist()):
        stop = min(start + _ROWS_AT_A_TIME, plan.neri)
        yield start, stop, [slice(cut[number], cut[number + 1]) for cut in cuts]
