"""Edges' topology by relation, and how a model's accuracy goes with it."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64, Int, Int64
from scipy import stats

from qmgen.errors import InputError
from qmgen.knowledge.topology import Cardinality, EdgeTopology


@dataclass(frozen=True)
class RelationTopology:
    """What is typical of each relation's edges.

    Attributes
    ----------
    edges
        How many each has.
    cardinalities
        Share of its edges of each `Cardinality`.
    means
        Mean over its edges of each number of `EdgeTopology`, by name; of what is true or false, and
        of patterns as ``has_...``, shares. NaN for relations without edges.
    """

    edges: Int64[np.ndarray, " relations"]
    cardinalities: Float64[np.ndarray, "relations 4"]
    means: dict[str, Float64[np.ndarray, " relations"]]


def by_relation(
    topology: EdgeTopology, relation: Int[np.ndarray, " n"], relations: int
) -> RelationTopology:
    """Summarise edges by relation.

    Parameters
    ----------
    topology
        Of all edges.
    relation
        Of each edge.
    relations
        How many there are.
    """
    edges = np.bincount(relation, minlength=relations).astype(np.int64)
    some = np.where(edges, edges, np.nan)
    kinds = np.bincount(relation * 4 + topology.cardinality, minlength=4 * relations)
    numbers = edge_numbers(topology)
    for name in ("inverse", "inference", "composition", "undirected_composition"):
        if name in numbers:
            numbers[f"has_{name}"] = (numbers[name] > 0).astype(np.float64)
    means = {
        name: np.bincount(relation, weights=values, minlength=relations) / some
        for name, values in numbers.items()
    }
    shares = kinds.reshape(relations, len(Cardinality)) / some[:, None]
    return RelationTopology(edges, shares, means)


def edge_numbers(topology: EdgeTopology) -> dict[str, Float64[np.ndarray, " n"]]:
    """Give all that can be averaged and ranked, by name."""
    values = {field.name: getattr(topology, field.name) for field in fields(topology)}
    return {
        name: column.astype(np.float64)
        for name, column in values.items()
        if column is not None and name != "cardinality"
    }


def accuracy_correlations(
    ranks: Float64[np.ndarray, " m"], topology: EdgeTopology, edges: Int[np.ndarray, " m"]
) -> dict[str, float]:
    """Correlate reciprocal ranks of a model with topology, over the edges that it was tested on.

    Parameters
    ----------
    ranks
        Of one end of each edge that was tested.
    topology
        Of all edges, those to train on among them.
    edges
        Places of the tested edges.

    Returns
    -------
    dict
        Spearman's rank correlation for each number of `EdgeTopology`; NaN where all edges have the
        same.

    Raises
    ------
    InputError
        There are as many ranks as edges, or fewer than three.
    """
    if not 3 <= len(ranks) == len(edges):
        raise InputError(
            f"{len(ranks)} ranks of {len(edges)} edges; give one for each of 3 or more"
        )
    correlations = {}
    for name, values in edge_numbers(topology).items():
        chosen = values[edges]
        varies = np.ptp(chosen) > 0 and np.ptp(ranks) > 0
        correlations[name] = (
            float(stats.spearmanr(1 / ranks, chosen).statistic) if varies else float("nan")
        )
    return correlations


def edge_places(
    triples: Int[np.ndarray, "n 3"], asked: Int[np.ndarray, "m 3"]
) -> Int64[np.ndarray, " m"]:
    """Find the places of some edges among all.

    Raises
    ------
    InputError
        One is not there.
    """
    both = np.concatenate([triples, asked])
    sizes = tuple(int(n) for n in both.max(axis=0, initial=0) + 1)
    keys = np.ravel_multi_index(tuple(triples.T), sizes)
    wanted = np.ravel_multi_index(tuple(asked.T), sizes)
    order = np.argsort(keys)
    places = np.searchsorted(keys[order], wanted)
    places[places == len(keys)] = 0
    if len(asked) and (not len(keys) or (keys[order[places]] != wanted).any()):
        raise InputError("an edge that is asked for is not in the graph")
    return order[places].astype(np.int64)
