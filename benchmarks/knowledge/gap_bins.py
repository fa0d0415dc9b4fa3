"""What completing a molecular knowledge graph is worth: bins of the gap that it lacks.

Bins of held-out molecules are predicted from the edges that the graph has of them (embeddings, a
relation-invariant network, a regression on the same edges), by the nearest fingerprint, and by a
SchNet that sees geometries; on a split by scaffold, and on a random one, across which similarity
leaks. Prints a table and draws it. Run as `make benchmark-knowledge`.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from benchmarks.reporting import save_plot
from qmgen.dataset import SPLITS, Dataset, open_dataset
from qmgen.knowledge.bess import Objective, device_mesh, train
from qmgen.knowledge.ensemble import combined
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.link_losses import LogSigmoid, SampledSoftmax
from qmgen.knowledge.link_prediction import ranks_among, scorer_of
from qmgen.knowledge.molecular_graph import FROM_SMILES, molecular_graph
from qmgen.knowledge.queries.invariant_training import trained_on_itself
from qmgen.knowledge.scoring import score_function
from qmgen.knowledge.triple_splits import TripleSplit, split_by_head
from qmgen.molecules import morgan_fingerprints
from qmgen.training.checkpoint import load_model
from qmgen.training.config import TrainConfig, WarmupDecay
from qmgen.training.prediction import predict
from qmgen.training.splits import SplitKind, blocks_of_split, split_codes
from qmgen.training.train import train_model
from qmgen.units import ANGSTROM_PER_BOHR

RELATION = "gap_bin"
EMBEDDINGS = ("DistMult", "ComplEx", "RotatE")
NAMES: dict[SplitKind, str] = {"scaffold": "by scaffold", "stored": "random"}
Scores = np.ndarray
"""Of each bin, by gap, for each molecule that is asked about; larger is likelier."""


@dataclass(frozen=True)
class Problem:
    """Molecules whose bins are hidden, and where everything else is.

    Attributes
    ----------
    kind
        Split.
    dataset
        Store.
    split
        The graph's edges: bins of the gap of validation and test molecules are in these parts.
    bins
        Entities, by gap.
    bounds_ev
        Between the bins.
    asked
        Molecules to predict for.
    """

    kind: SplitKind
    dataset: Dataset
    split: TripleSplit
    bins: np.ndarray
    bounds_ev: np.ndarray
    asked: np.ndarray

    @property
    def graph(self) -> KnowledgeGraph:
        """All edges."""
        return self.split.graph

    @property
    def relation(self) -> int:
        """Number of the relation whose edges are hidden."""
        return self.graph.relations.index(RELATION)

    def without_bins(self, *others: str) -> np.ndarray:
        """Edges to learn from that are not of the relation, nor of others."""
        left_out = [self.graph.relations.index(name) for name in (RELATION, *others)]
        return self.split.training[~np.isin(self.split.training[:, 1], left_out)]

    def known_bins(self) -> tuple[np.ndarray, np.ndarray]:
        """Molecules whose bin is known, and places of these in `bins`."""
        edges = self.split.training[self.split.training[:, 1] == self.relation]
        return edges[:, 0], self.place(edges[:, 2])

    def place(self, entities: np.ndarray) -> np.ndarray:
        """Places of bins by gap."""
        order = np.argsort(self.bins)
        return order[np.searchsorted(self.bins[order], entities)]


def bins_by_gap(graph: KnowledgeGraph) -> tuple[np.ndarray, np.ndarray]:
    """Entities of the bins, and the bounds between them, eV, which their names have."""
    entities = graph.of_type("gap bin")
    numbers = [list(map(float, re.findall(r"\d+\.\d+", graph.entities[i]))) for i in entities]
    below = [graph.entities[i].startswith("gap:below") for i in entities]
    low = [-np.inf if first else own[0] for first, own in zip(below, numbers, strict=True)]
    return entities[np.argsort(low)], np.unique(np.concatenate(numbers))


def problem(dataset: Dataset, graph: KnowledgeGraph, kind: SplitKind) -> Problem:
    """Hide the bins of a split's validation and test molecules."""
    number = {name: i for i, name in enumerate(graph.entities)}
    codes = split_codes(dataset, kind)
    parts = []
    for name in SPLITS:
        blocks = blocks_of_split(dataset, name, codes, ("smile",))
        found = {number[f"molecule:{smile}"] for block in blocks for smile in block["smile"]}
        # Rows with the same SMILES are one molecule, of the first split that has it.
        parts.append(found.difference(*parts))
    validation, test = (np.array(sorted(part)) for part in parts[1:])
    split = split_by_head(graph, RELATION, validation, test)
    return Problem(kind, dataset, split, *bins_by_gap(graph), test)


def majority(task: Problem) -> Scores:
    """Share of training molecules in each bin."""
    counts = np.bincount(task.known_bins()[1], minlength=len(task.bins))
    return np.tile(counts / counts.sum(), (len(task.asked), 1))


def nearest(task: Problem) -> Scores:
    """Tanimoto similarity of the training molecule in each bin that is most alike."""
    molecules, places = task.known_bins()
    both = np.concatenate([task.asked, molecules])
    names = [task.graph.entities[i].removeprefix("molecule:") for i in both]
    bits = morgan_fingerprints(names, nbit=2048).astype(np.float32)
    asked, known = np.split(bits, [len(task.asked)])
    shared = asked @ known.T
    similarity = shared / (asked.sum(1)[:, None] + known.sum(1) - shared)
    best = [similarity[:, places == place].max(axis=1) for place in range(len(task.bins))]
    # Of bins alike the one with more molecules.
    return np.stack(best, axis=1) + 1e-4 * majority(task)


def regression(task: Problem) -> Scores:
    """Multinomial regression on which edges a molecule has, of all but similarity."""
    edges = task.without_bins("similar_to")
    molecules, places = task.known_bins()
    kinds, columns = np.unique(edges[:, 1:], axis=0, return_inverse=True)
    shape = (len(task.graph.entities), len(kinds))
    features = csr_array((np.ones(len(edges)), (edges[:, 0], columns.ravel())), shape)
    model = LogisticRegression(C=0.3, max_iter=300).fit(features[molecules], places)
    return model.predict_log_proba(features[task.asked])


def embedding(task: Problem, name: str, seed: int, steps: int, similar: bool) -> Scores:
    """An embedding of all edges to learn from, those of similarity among them or not."""
    known = task.split.training
    if not similar:
        known = known[known[:, 1] != task.graph.relations.index("similar_to")]
    distance = name == "RotatE"
    loss = LogSigmoid(2.0) if distance else SampledSoftmax(len(task.graph.entities))
    # Rates, margin and decay did best on validation molecules of the random split.
    rate = optax.cosine_decay_schedule(0.03 if distance else 0.01, steps)
    trained = train(
        task.graph,
        known,
        Objective(score_function(name), loss),
        width=64,
        steps=steps,
        per_block=512,
        negatives=512,
        optimiser=optax.adamw(rate, weight_decay=0.0 if distance else 0.3),
        mesh=device_mesh(jax.devices()[:1]),
        seed=seed,
    )
    relations = np.full(len(task.asked), task.relation)
    return scorer_of(trained)(task.asked, relations, "tail")[:, task.bins]


def ensemble(scores: list[Scores]) -> Scores:
    """As BESS makes one of several models, of their ranks among the bins."""
    scorers = [lambda given, relations, end, own=own: own for own in scores]
    nothing = np.empty(0, dtype=np.int64)
    return combined(scorers)(nothing, nothing, "tail")


def invariant(task: Problem, seed: int) -> Scores:
    """What `qmgen knowledge ask --predict` trains."""
    known = replace(task.graph, triples=task.split.training)
    tails = trained_on_itself(known, seed, FROM_SMILES)
    return tails(task.asked, task.relation, False)[:, task.bins]


def schnet(task: Problem, seed: int, epochs: int) -> Scores:
    """Minus the distance of the gap that a SchNet predicts from each bin, eV."""
    steps = epochs * len(task.known_bins()[0]) // 32
    config = TrainConfig(
        targets={"gap": 1.0},
        split=task.kind,
        epochs=epochs,
        learning_rate=2e-3,
        schedule=WarmupDecay(warmup_steps=100, decay_factor=0.5, decay_steps=max(steps // 6, 1)),
        seed=seed,
        accelerator="cpu",
    )
    with TemporaryDirectory() as folder:
        done = train_model(task.dataset.path, folder, config)
        model = load_model(done.checkpoint)
    print(f"  SchNet's test MAE: {done.errors['gap'].test_mae:.3f} eV")
    codes = split_codes(task.dataset, task.kind)
    gaps: dict[str, float] = {}
    for block in blocks_of_split(task.dataset, "test", codes, ("smile", "z", "pos")):
        z = np.split(block["z"], block.atom_offset[1:-1])
        positions = np.split(block["pos"] * ANGSTROM_PER_BOHR, block.atom_offset[1:-1])
        found = predict(model, z, positions)["gap_ev"]
        gaps |= dict(zip(block["smile"].tolist(), np.asarray(found).tolist(), strict=True))
    names = [task.graph.entities[i].removeprefix("molecule:") for i in task.asked]
    gap = np.array([gaps[name] for name in names])[:, None]
    low = np.concatenate([[-np.inf], task.bounds_ev])
    high = np.concatenate([task.bounds_ev, [np.inf]])
    return -np.maximum(np.maximum(low - gap, gap - high), 0.0)


def measures(task: Problem, scores: Scores) -> tuple[float, float, float]:
    """Share of bins that come first, mean reciprocal rank, and mean number of bins off."""
    edges = task.graph.triples[task.graph.triples[:, 1] == task.relation]
    truth = dict(zip(*edges[:, [0, 2]].T.tolist(), strict=True))
    places = task.place(np.array([truth[i] for i in task.asked.tolist()]))
    ranks = ranks_among(scores, places)
    off = np.abs(scores.argmax(axis=1) - places)
    return float(np.mean(ranks == 1)), float(np.mean(1 / ranks)), float(off.mean())


def results(task: Problem, options: argparse.Namespace) -> Iterator[tuple[str, list[Scores]]]:
    """Scores of each predictor, one for each of its seeds."""

    def seeded(predictor: Callable[..., Scores], *arguments: object) -> list[Scores]:
        return [predictor(task, *arguments, seed=seed) for seed in range(options.seeds)]

    yield "majority class", [majority(task)]
    yield "nearest fingerprint", [nearest(task)]
    yield "regression on the edges", [regression(task)]
    for similar in (False, True):
        with_similar = ", with similar_to" if similar else ""
        found = []
        for name in EMBEDDINGS:
            one = partial(embedding, name=name, steps=options.steps, similar=similar)
            found.append(seeded(one))
            yield name + with_similar, found[-1]
        yield "all three" + with_similar, [ensemble(list(of)) for of in zip(*found, strict=True)]
    if options.invariant:
        yield "invariant network, with similar_to", [invariant(task, 0)]
    if options.epochs:
        yield "SchNet", [schnet(task, 0, options.epochs)]


def joined_to_training(task: Problem) -> float:
    """Share of the molecules asked about with a look-alike among those to learn from."""
    graph = task.graph
    similar = graph.triples[graph.triples[:, 1] == graph.relations.index("similar_to")]
    near = similar[np.isin(similar[:, 2], task.known_bins()[0]), 0]
    return float(np.isin(task.asked, near).mean())


def draw(found: dict[str, dict[str, float]], chance: dict[str, float], figure: Path) -> None:
    """Share of right bins by predictor, both splits beside each other."""
    names = list(next(iter(found.values())))
    plt.figure(figsize=(7, 4.5))
    places = np.arange(len(names))[::-1]
    for i, (split, by_name) in enumerate(found.items()):
        colour = f"C{i}"
        plt.barh(places + 0.2 - 0.4 * i, list(by_name.values()), 0.38, label=split, color=colour)
        plt.axvline(chance[split], color=colour, linestyle=":")
    plt.yticks(places, names)
    plt.xlabel("share of right bins of the gap (dotted: majority class)")
    plt.legend(title="split")
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="dataset whose molecules have SMILES")
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--similarity", type=float, default=0.4, help="smallest of similar_to")
    parser.add_argument("--seeds", type=int, default=2, help="of embeddings")
    parser.add_argument("--steps", type=int, default=1500, help="of embeddings")
    parser.add_argument("--invariant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--epochs", type=int, default=20, help="of SchNet; 0: not at all")
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "gap_bins.png")
    options = parser.parse_args()
    dataset = open_dataset(options.store)
    graph = molecular_graph(dataset, bins=options.bins, similarity=options.similarity)
    print(f"{len(graph.entities):,} entities, {len(graph.triples):,} edges")
    rows: dict[str, list[str]] = {}
    accuracies: dict[str, dict[str, float]] = {}
    chance: dict[str, float] = {}
    for kind, split in NAMES.items():
        task = problem(dataset, graph, kind)
        print(
            f"{split}: {len(task.known_bins()[0]):,} training and {len(task.asked)} test "
            f"molecules, {joined_to_training(task):.0%} of these with a look-alike among the former"
        )
        accuracies[split] = {}
        start = time.process_time()
        for name, scores in results(task, options):
            of_seeds = np.array([measures(task, own) for own in scores])
            mean = of_seeds.mean(axis=0)
            seconds, start = time.process_time() - start, time.process_time()
            print(f"  {name}: {mean.round(3).tolist()}, {seconds:.0f} s", flush=True)
            spread = np.ptp(of_seeds[:, 0]) / 2
            first = f"{mean[0]:.3f}" + (f" ± {spread:.3f}" if len(scores) > 1 else "")
            rows.setdefault(name, []).extend([first, f"{mean[1]:.3f}", f"{mean[2]:.2f}"])
            if name == "majority class":
                chance[split] = mean[0]
            else:
                accuracies[split][name] = mean[0]
    print()
    header = [f"{what}, {split}" for split in NAMES.values() for what in ("right", "MRR", "off")]
    for row in (["", *header], ["---"] * 7, *([name, *own] for name, own in rows.items())):
        print("| " + " | ".join(row) + " |")
    draw(accuracies, chance, options.figure)


if __name__ == "__main__":
    main()
