import numpy as np
import pytest
from scipy import stats

from qmgen.errors import InputError
from qmgen.knowledge import topology as module
from qmgen.knowledge.graph import distinct_triples
from qmgen.knowledge.topology import Cardinality, compositions, edge_topology
from qmgen.knowledge.topology_summary import accuracy_correlations, by_relation, edge_places


def counted(triples):
    """Every number of every edge from the set of edges."""
    edges = {tuple(edge) for edge in triples.tolist()}
    proper = [(h, t) for h, _, t in edges if h != t]
    both = proper + [(t, h) for h, t in proper]
    rows = []
    for h, r, t in triples.tolist():
        out_within = sum(a == h and k == r for a, k, _ in edges)
        in_within = sum(b == t and k == r for _, k, b in edges)
        rows.append(
            {
                "out_degree": sum(a == h for a, _, _ in edges),
                "in_degree": sum(b == t for _, _, b in edges),
                "relation_out_degree": out_within,
                "relation_in_degree": in_within,
                "cardinality": {
                    (False, False): Cardinality.ONE_TO_ONE,
                    (True, False): Cardinality.ONE_TO_MANY,
                    (False, True): Cardinality.MANY_TO_ONE,
                    (True, True): Cardinality.MANY_TO_MANY,
                }[out_within > 1, in_within > 1],
                "loop": h == t,
                "symmetric": h != t and (t, r, h) in edges,
                "inverse": len({k for a, k, b in edges if (a, b) == (t, h) and k != r}),
                "inference": len({k for a, k, b in edges if (a, b) == (h, t) and k != r}),
                "composition": paths(proper, h, t),
                "undirected_composition": paths(both, h, t),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def paths(edges, h, t):
    return 0 if h == t else sum(a == h and x == y and b == t for a, x in edges for y, b in edges)


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_count_over_sets(random_graph, seed):
    graph = random_graph(seed)
    found = edge_topology(graph.triples, len(graph.entities), undirected=True)
    for name, expected in counted(graph.triples).items():
        assert getattr(found, name).tolist() == expected, name


@pytest.mark.parametrize("hubs", [0, 2])
@pytest.mark.parametrize("terms", [1, 40, 50_000_000])
def test_compositions_do_not_depend_on_how_they_are_cut(monkeypatch, hubs, terms):
    rng = np.random.default_rng(3)
    heads, tails = rng.integers(0, 30, (2, 120))
    # Hubs whose paths outnumber the edges.
    for hub in range(hubs):
        heads[hub * 40 : hub * 40 + 20] = hub
        tails[hub * 40 + 20 : hub * 40 + 40] = hub
    dense = np.zeros((30, 30), dtype=np.int64)
    np.add.at(dense, (heads, tails), 1)
    np.fill_diagonal(dense, 0)
    monkeypatch.setattr(module, "_TERMS", terms)
    for undirected in (False, True):
        whole = dense + dense.T if undirected else dense
        expected = np.where(heads == tails, 0, (whole @ whole)[heads, tails])
        found = compositions(heads, tails, 30, undirected=undirected)
        np.testing.assert_array_equal(found, expected)


def test_no_edges():
    assert edge_topology(np.zeros((0, 3), dtype=np.int64), 4).composition.size == 0


def test_by_relation(random_graph):
    graph = random_graph(5)
    relation = graph.triples[:, 1]
    topology = edge_topology(graph.triples, 8)
    found = by_relation(topology, relation, 4)
    for r in range(3):
        own = relation == r
        assert found.edges[r] == own.sum()
        assert found.means["in_degree"][r] == pytest.approx(topology.in_degree[own].mean())
        assert found.means["symmetric"][r] == pytest.approx(topology.symmetric[own].mean())
        has = (topology.composition[own] > 0).mean()
        assert found.means["has_composition"][r] == pytest.approx(has)
        for kind in Cardinality:
            share = (topology.cardinality[own] == kind).mean()
            assert found.cardinalities[r, kind] == pytest.approx(share)
    assert np.isnan(found.means["in_degree"][3])


def test_correlations(random_graph):
    graph = random_graph(7)
    topology = edge_topology(graph.triples, 8)
    rng = np.random.default_rng(0)
    asked = rng.permutation(len(graph.triples))[:25]
    places = edge_places(graph.triples, graph.triples[asked])
    np.testing.assert_array_equal(places, asked)
    ranks = 1.0 + rng.integers(0, 8, 25)
    found = accuracy_correlations(ranks, topology, places)
    # Of ranks of values, ties having their mean.
    ordered = [stats.rankdata(x) for x in (1 / ranks, topology.in_degree[asked])]
    assert found["in_degree"] == pytest.approx(np.corrcoef(*ordered)[0, 1])


def test_what_is_wrong_is_said():
    twice = np.array([[0, 0, 1], [0, 0, 1]])
    with pytest.raises(InputError, match="twice"):
        edge_topology(twice, 2)
    assert len(distinct_triples(twice)) == 1
    with pytest.raises(InputError, match="too many"):
        edge_topology(twice[:1], 2**32)
    with pytest.raises(InputError, match="not in the graph"):
        edge_places(twice[:1], np.array([[1, 0, 1]]))
    with pytest.raises(InputError, match="2 ranks"):
        accuracy_correlations(np.ones(2), edge_topology(twice[:1], 2), np.zeros(2, int))
