"""What surrounds each edge of a graph, which tells how hard it is to predict.

Cattaneo, Bonner, Martynec, Luschi, Barrett, Justus, "The role of graph topology in the performance
of biomedical knowledge graph completion models", arXiv:2409.04103, section on topological
properties.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int, Int8, Int64, Shaped
from scipy import sparse

from qmgen.errors import InputError

# Terms of a product of matrices that are held at once; 16 bytes each, and as much to sort them.
_TERMS = 50_000_000


class Cardinality(IntEnum):
    """Whether an edge's head has other tails, and its tail other heads, in the same relation."""

    ONE_TO_ONE = 0
    ONE_TO_MANY = 1
    MANY_TO_ONE = 2
    MANY_TO_MANY = 3


@dataclass(frozen=True)
class EdgeTopology:
    """Numbers of each edge (h, r, t), in the order of the triples.

    Attributes
    ----------
    out_degree, in_degree
        Edges that leave h, and that reach t.
    relation_out_degree, relation_in_degree
        The same among edges of r.
    cardinality
        As `Cardinality`.
    loop
        Whether h is t.
    symmetric
        Whether (t, r, h) is an edge, too; not for loops.
    inverse
        Other relations r' with an edge (t, r', h).
    inference
        Other relations r' with an edge (h, r', t).
    composition
        Pairs of edges h -> x -> t of any relations, none of which is a loop; 0 for loops.
    undirected_composition
        The same where each edge counts in both directions; None if it was not asked for.
    """

    out_degree: Int64[np.ndarray, " n"]
    in_degree: Int64[np.ndarray, " n"]
    relation_out_degree: Int64[np.ndarray, " n"]
    relation_in_degree: Int64[np.ndarray, " n"]
    cardinality: Int8[np.ndarray, " n"]
    loop: Bool[np.ndarray, " n"]
    symmetric: Bool[np.ndarray, " n"]
    inverse: Int64[np.ndarray, " n"]
    inference: Int64[np.ndarray, " n"]
    composition: Int64[np.ndarray, " n"]
    undirected_composition: Int64[np.ndarray, " n"] | None = None


def edge_topology(
    triples: Int[np.ndarray, "n 3"], entities: int, *, undirected: bool = False
) -> EdgeTopology:
    """Compute all numbers of all edges.

    Takes about 250 bytes an edge, and what `compositions` takes.

    Parameters
    ----------
    triples
        Each edge once: head, relation, tail.
    entities
        How many there are.
    undirected
        Whether to count undirected compositions, too.

    Raises
    ------
    InputError
        An edge is there twice, or there are so many entities and relations that a number of 64 bits
        can't tell edges apart.
    """
    heads, relations, tails = (np.ascontiguousarray(x, dtype=np.int64) for x in triples.T)
    kinds = int(relations.max(initial=0)) + 1
    if entities**2 * kinds >= 2**63:
        raise InputError(
            f"{entities} entities and {kinds} relations are too many; leave entities without edges "
            "out and number the others anew"
        )
    within_out = _occurrences(relations * entities + heads)
    within_in = _occurrences(relations * entities + tails)
    loop = heads == tails
    pairs = heads * entities + tails
    reverse = tails * entities + heads
    edges = np.sort(pairs * kinds + relations)
    if (np.diff(edges) == 0).any():
        raise InputError("an edge is there twice; `distinct_triples` leaves each once")
    back = _counts_of(edges, np.ones(edges.size, np.int64), reverse * kinds + relations)
    distinct, number = np.unique(pairs, return_counts=True)
    inverse = _counts_of(distinct, number, reverse) - back
    inference = _counts_of(distinct, number, pairs) - 1
    composition = compositions(heads, tails, entities)
    return EdgeTopology(
        out_degree=np.bincount(heads, minlength=entities)[heads],
        in_degree=np.bincount(tails, minlength=entities)[tails],
        relation_out_degree=within_out,
        relation_in_degree=within_in,
        cardinality=((within_out > 1) + 2 * (within_in > 1)).astype(np.int8),
        loop=loop,
        symmetric=(back > 0) & ~loop,
        inverse=inverse,
        inference=inference,
        composition=composition,
        undirected_composition=compositions(heads, tails, entities, undirected=True)
        if undirected
        else None,
    )


def compositions(
    heads: Int64[np.ndarray, " n"],
    tails: Int64[np.ndarray, " n"],
    entities: int,
    *,
    undirected: bool = False,
) -> Int64[np.ndarray, " n"]:
    """Count pairs of edges that lead from each edge's head over another entity to its tail.

    Entries of A² at the places of A, where A counts edges that are no loops. Rows of the product
    are made a block at a time, so that no more than some 50 million terms are there at once. A hub
    x would make in(x) times out(x) terms; where these are more than all places, the product's entry
    is summed at the places instead.

    Parameters
    ----------
    heads, tails
        Of the edges; other edges between the same two count as well.
    entities
        How many there are.
    undirected
        Whether edges lead both ways.
    """
    proper = heads != tails
    ones = np.ones(int(proper.sum()), dtype=np.int64)
    ends = (heads[proper], tails[proper])
    adjacency = sparse.csr_array((ones, ends), shape=(entities, entities))
    adjacency.sum_duplicates()
    # The places that are asked for, as rows and sorted columns.
    places = sparse.csr_array(adjacency, copy=True)
    if undirected:
        adjacency = sparse.csr_array(adjacency + adjacency.T)
    rows = np.repeat(np.arange(entities), np.diff(places.indptr))
    columns = places.indices.astype(np.int64)
    found = np.zeros(columns.size, dtype=np.int64)
    out = np.diff(adjacency.indptr).astype(np.int64)
    into = np.bincount(adjacency.indices, minlength=entities)
    hubs = np.flatnonzero(out * into > max(columns.size, 1))
    by_column = adjacency.tocsc()
    for hub in hubs.tolist():
        first = by_column[:, [hub]].toarray().ravel()
        second = adjacency[[hub], :].toarray().ravel()
        found += first[rows] * second[columns]
    through = adjacency.copy()
    through.data[np.isin(np.repeat(np.arange(entities), out), hubs)] = 0
    through.eliminate_zeros()
    found += _masked_square(adjacency, through, places)
    result = np.zeros(heads.size, dtype=np.int64)
    result[proper] = _counts_of(rows * entities + columns, found, ends[0] * entities + ends[1])
    return result


def _masked_square(
    first: sparse.csr_array, second: sparse.csr_array, places: sparse.csr_array
) -> Int64[np.ndarray, " places"]:
    """Entries of first @ second where `places` has some, in its order, by blocks of rows."""
    found = np.zeros(places.nnz, dtype=np.int64)
    length = np.diff(second.indptr).astype(np.int64)
    steps = np.concatenate([[0], np.cumsum(length[first.indices])])
    terms = steps[first.indptr]
    start = 0
    while start < first.shape[0]:
        stop = int(np.searchsorted(terms, terms[start] + _TERMS, side="right")) - 1
        stop = min(max(stop, start + 1), first.shape[0])
        low, high = places.indptr[start], places.indptr[stop]
        if high > low and terms[stop] > terms[start]:
            wanted = places[start:stop]
            product = sparse.csr_array(first[start:stop] @ second)
            product.sort_indices()
            found[low:high] = _entries(product, wanted)
        start = stop
    return found


def _entries(product: sparse.csr_array, wanted: sparse.csr_array) -> Int64[np.ndarray, " wanted"]:
    """Entries of `product` where `wanted` has some; both have sorted columns."""
    width = product.shape[1]
    keys, asked = (
        np.repeat(np.arange(m.shape[0], dtype=np.int64), np.diff(m.indptr)) * width + m.indices
        for m in (product, wanted)
    )
    return _counts_of(keys, product.data, asked)


def _occurrences(keys: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How often each key is there."""
    _, inverse, number = np.unique(keys, return_inverse=True, return_counts=True)
    return number[inverse]


def _counts_of(
    keys: Int64[np.ndarray, " m"], counts: Shaped[np.ndarray, " m"], asked: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Counts of the keys that are asked for, 0 for others; keys ascend."""
    if not keys.size:
        return np.zeros(asked.size, dtype=np.int64)
    # Keys that are asked for in their order are found several times faster.
    order = np.argsort(asked)
    ordered = asked[order]
    places = np.searchsorted(keys, ordered)
    places[places == keys.size] = 0
    result = np.empty(asked.size, dtype=np.int64)
    result[order] = np.where(keys[places] == ordered, counts[places], 0)
    return result
