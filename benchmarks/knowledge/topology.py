"""Cattaneo et al., 2409.04103: what surrounds an edge, and how well models predict it.

Models on a graph whose tails have Zipf's popularity, and on public graphs that PyKEEN ships; all
numbers of tens of millions of edges, timed. Run as `make benchmark-knowledge`.
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from bess import objective, width
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmarks.reporting import save_plot, table
from qmgen.knowledge.bess import Objective, device_mesh, train
from qmgen.knowledge.graph import UNTYPED, KnowledgeGraph, distinct_triples
from qmgen.knowledge.link_losses import SampledSoftmax
from qmgen.knowledge.link_prediction import LinkRanks, link_ranks, scorer_of
from qmgen.knowledge.scoring import score_function
from qmgen.knowledge.topology import EdgeTopology, edge_topology
from qmgen.knowledge.topology_summary import accuracy_correlations, edge_places
from qmgen.knowledge.triple_splits import TripleSplit, random_split

SHOWN = (
    "out_degree",
    "in_degree",
    "relation_out_degree",
    "relation_in_degree",
    "inverse",
    "inference",
    "composition",
)


def popular_tails(entities: int, relations: int, draws: int, seed: int) -> KnowledgeGraph:
    """Heads at random, tails by Zipf's law, in an order of its own in each relation."""
    rng = np.random.default_rng(seed)
    relation = rng.integers(0, relations, draws)
    orders = np.stack([rng.permutation(entities) for _ in range(relations)])
    share = 1.0 / np.arange(1, entities + 1)
    place = rng.choice(entities, draws, p=share / share.sum())
    triples = np.stack([rng.integers(0, entities, draws), relation, orders[relation, place]], 1)
    return KnowledgeGraph(
        tuple(map(str, range(entities))),
        tuple(map(str, range(relations))),
        distinct_triples(triples),
        (UNTYPED,),
        np.zeros(entities, dtype=np.int64),
    )


def trained_ranks(
    split: TripleSplit, what: Objective, steps: int, batch: int, negatives: int, rate: float
) -> LinkRanks:
    trained = train(
        split.graph,
        split.training,
        what,
        width=width(what.score.name),
        steps=steps,
        per_block=batch,
        negatives=negatives,
        optimiser=optax.adam(rate),
        mesh=device_mesh(jax.devices()[:1]),
    )
    n = len(split.graph.entities)
    return link_ranks(scorer_of(trained), split.test, split.graph.triples, n)


def with_popular_tails(steps: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give tails' degrees and reciprocal ranks of each model."""
    split = random_split(popular_tails(600, 6, 9000, seed=0), 0.0, 0.1, seed=0)
    n = len(split.graph.entities)
    topology = edge_topology(split.graph.triples, n)
    edges = edge_places(split.graph.triples, split.test)
    found, rows = {}, []
    for name in ("DistMult", "ComplEx"):
        what = Objective(score_function(name), SampledSoftmax(n))
        # As many negatives as there are entities: a softmax over all, nearly.
        ranks = trained_ranks(split, what, steps, 256, n, 0.01)
        tail = accuracy_correlations(ranks.tail, topology, edges)["relation_in_degree"]
        head = accuracy_correlations(ranks.head, topology, edges)["relation_out_degree"]
        verdict = "as expected" if tail > 0.2 else "NOT as expected"
        rows.append([name, f"{ranks.mrr:.3f}", f"{tail:+.2f}", f"{head:+.2f}", verdict])
        found[name] = topology.relation_in_degree[edges], 1 / ranks.tail
    print(f"{len(split.graph.triples)} edges between {n} entities, tails by Zipf's law; Spearman:")
    table(["model", "MRR", "1/rank of tail, its in-degree", "of head, its out-degree", ""], rows)
    return found


def on_public_graphs(
    names: list[str], steps: int
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Correlations of tails' reciprocal ranks with everything that surrounds an edge."""
    from qmgen.knowledge.pykeen_datasets import pykeen_dataset

    found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    rows = []
    for dataset in names:
        split = pykeen_dataset(dataset)
        n = len(split.graph.entities)
        topology = edge_topology(split.graph.triples, n)
        edges = edge_places(split.graph.triples, split.test)
        for name in ("TransE", "RotatE", "DistMult", "ComplEx"):
            ranks = trained_ranks(split, objective(name, n), steps, 256, 32, 0.01)
            correlations = accuracy_correlations(ranks.tail, topology, edges)
            # A number that all edges share is correlated with nothing.
            shown = [correlations[what] for what in SHOWN]
            numbers = ["" if np.isnan(value) else f"{value:+.2f}" for value in shown]
            rows.append([dataset, name, f"{np.mean(1 / ranks.tail):.3f}", *numbers])
            degrees = topology.relation_in_degree[edges]
            found.setdefault(dataset, {})[name] = degrees, 1 / ranks.tail
    titles = [what.replace("_", " ") for what in SHOWN]
    table(["graph", "model", "tail MRR", *titles], rows)
    return found


def large(edges: int, exponent: float) -> None:
    """Time everything on a random graph with hubs."""
    entities, relations = max(edges // 10, 10), 50
    rng = np.random.default_rng(0)
    # Inverse of the distribution function of a power law.
    power = 1 / (1 - exponent)
    ends = [(entities * rng.random(edges) ** power).astype(np.int64) for _ in range(2)]
    order = rng.permutation(entities)
    # Heads and tails have different hubs.
    triples = np.stack([ends[0], rng.integers(0, relations, edges), order[ends[1]]], 1)
    del ends
    triples = distinct_triples(triples)
    start = time.process_time()
    topology = edge_topology(triples, entities)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = [
        [
            f"{len(triples):,}",
            f"{entities:,}",
            f"{topology.in_degree.max():,}",
            f"{topology.composition.sum():,}",
            f"{seconds:.0f}",
            f"{len(triples) / seconds:,.0f}",
            f"{peak:.1f}",
        ]
    ]
    table(
        [
            "edges",
            "entities",
            "largest in-degree",
            "compositions",
            "seconds of the processor",
            "edges per second",
            "peak memory, GiB",
        ],
        rows,
    )
    check(triples, topology)


def check(triples: np.ndarray, topology: EdgeTopology) -> None:
    """Count again what surrounds a few edges, from the edges themselves."""
    heads, relations, tails = triples.T
    for edge in np.random.default_rng(1).integers(0, len(triples), 20).tolist():
        h, r, t = triples[edge].tolist()
        leaving, reaching = tails[(heads == h) & (tails != h)], heads[(tails == t) & (heads != t)]
        between, before = np.unique(leaving, return_counts=True)
        other, after = np.unique(reaching, return_counts=True)
        _, one, two = np.intersect1d(between, other, return_indices=True)
        paths = int((before[one] * after[two]).sum()) if h != t else 0
        back = (heads == t) & (tails == h) & (relations != r)
        assert topology.composition[edge] == paths
        assert topology.inverse[edge] == back.sum()
        assert topology.in_degree[edge] == (tails == t).sum()
    print("20 of them counted again one by one: all numbers the same\n")


def draw(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], figure: Path, bins: int = 8
) -> None:
    _, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.4), squeeze=False)
    for axis, (title, models) in zip(axes[0], panels.items(), strict=True):
        for name, (degrees, reciprocal) in models.items():
            groups = np.array_split(np.argsort(degrees, kind="stable"), bins)
            x = [degrees[g].mean() for g in groups]
            axis.plot(x, [reciprocal[g].mean() for g in groups], ".-", label=name)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title)
        axis.set_xlabel("in-degree of tail within relation")
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("tail MRR")
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--datasets", nargs="*", default=["kinships", "umls"])
    parser.add_argument("--edges", type=int, nargs="*", default=[20_000_000])
    parser.add_argument("--exponent", type=float, default=0.6, help="Of popularity by place.")
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "topology.png")
    arguments = parser.parse_args()
    for edges in arguments.edges:
        large(edges, arguments.exponent)
    panels = {"tails by Zipf's law": with_popular_tails(arguments.steps)}
    if arguments.datasets:
        panels |= on_public_graphs(arguments.datasets, arguments.steps)
    draw(panels, arguments.figure)


if __name__ == "__main__":
    main()
