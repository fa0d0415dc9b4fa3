"""Cattaneo et al., 2211.12281: embeddings trained in shards.

Five models on a ring, of which a rotation is the right one; the loss on 1 to 8 forced devices;
memory and traffic by formula. Run as `make benchmark-knowledge`.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from benchmarks.reporting import save_plot, table
from qmgen.knowledge.bess import Objective, device_mesh, train
from qmgen.knowledge.bess_cost import step_cost
from qmgen.knowledge.graph import UNTYPED, KnowledgeGraph
from qmgen.knowledge.link_losses import LogSigmoid, SampledSoftmax
from qmgen.knowledge.link_prediction import link_ranks, scorer_of
from qmgen.knowledge.negatives import Negatives, OwnNegatives, SharedNegatives
from qmgen.knowledge.scoring import score_function
from qmgen.knowledge.sharding import EntityShards
from qmgen.knowledge.triple_splits import TripleSplit, random_split

MODELS = ("TransE", "TransH", "RotatE", "DistMult", "ComplEx")
DISTANCES = ("TransE", "TransH", "RotatE")
COMPLEX = ("RotatE", "ComplEx")
DIMENSION, MARGIN, RATE = 32, 6.0, 0.01


def ring(entities: int, relations: int) -> KnowledgeGraph:
    """Relation k leads k + 1 entities further around a ring."""
    kinds, heads = np.divmod(np.arange(entities * relations), entities)
    return KnowledgeGraph(
        tuple(f"place {i}" for i in range(entities)),
        tuple(f"{k + 1} further" for k in range(relations)),
        np.stack([heads, kinds, (heads + kinds + 1) % entities], axis=1),
        (UNTYPED,),
        np.zeros(entities, dtype=np.int64),
    )


def objective(name: str, entities: int) -> Objective:
    loss = LogSigmoid(MARGIN) if name in DISTANCES else SampledSoftmax(entities)
    return Objective(score_function(name), loss)


def width(name: str) -> int:
    """Numbers of an entity: `DIMENSION` real or complex ones."""
    return DIMENSION * (2 if name in COMPLEX else 1)


def symmetric_bound(split: TripleSplit) -> float:
    """MRR to expect of a symmetric model that fits all edges it was trained on.

    A step back from the given end has the score of an edge that leads here. Where it was trained
    on, it comes before the true answer, otherwise before or after it.
    """
    n = len(split.graph.entities)
    trained = {tuple(edge) for edge in split.training.tolist()}
    found = []
    for h, r, t in split.test.tolist():
        for back in (((h - r - 1) % n, r, h), (t, r, (t + r + 1) % n)):
            found.append(0.5 if back in trained else 0.75)
    return float(np.mean(found))


def on_ring(split: TripleSplit, steps: int, seeds: int, figure: Path) -> None:
    n, bound = len(split.graph.entities), symmetric_bound(split)
    curves, rows = {}, []
    for name in MODELS:
        start = time.process_time()
        ranks = []
        for seed in range(seeds):
            trained = train(
                split.graph,
                split.training,
                objective(name, n),
                width=width(name),
                steps=steps,
                per_block=8,
                negatives=8,
                optimiser=optax.adam(RATE),
                mesh=device_mesh(jax.devices()[:1]),
                shards=4,
                seed=seed,
            )
            ranks.append(link_ranks(scorer_of(trained), split.test, split.graph.triples, n))
            curves[name] = trained.losses
        seconds = (time.process_time() - start) / seeds
        mrr = [r.mrr for r in ranks]
        expected = {"RotatE": min(mrr) >= 0.95, "DistMult": max(mrr) <= bound}.get(name)
        verdict = "" if expected is None else "as expected" if expected else "NOT as expected"
        row = [name, f"{np.mean(mrr):.3f} ({min(mrr):.3f} to {max(mrr):.3f})"]
        row += [f"{np.mean([r.hits(k) for r in ranks]):.2f}" for k in (1, 10)]
        rows.append([*row, f"{seconds:.0f}", verdict])
    table(["ring", "filtered MRR", "hits@1", "hits@10", "seconds of the processor", ""], rows)
    print(f"A symmetric model that fits its training set has an MRR of {bound:.3f}.\n")
    for name, losses in curves.items():
        smooth = losses[: len(losses) // 25 * 25].reshape(-1, 25).mean(axis=1)
        plt.plot(np.arange(smooth.size) * 25 + 12, smooth, label=name)
    plt.yscale("log")
    plt.xlabel("step")
    plt.ylabel("loss")
    plt.title("A ring of 200 entities, 8 relations")
    plt.legend()
    save_plot(figure)


def forced_devices() -> None:
    """In a process with eight forced devices: the same loss on all numbers of them."""
    split = random_split(ring(200, 8), 0.0, 0.1, seed=0)
    kinds: dict[str, Negatives] = {"shared": SharedNegatives(8), "own": OwnNegatives(8)}
    curves = {}
    for kind, negatives in kinds.items():
        for devices in (1, 2, 4, 8):
            trained = train(
                split.graph,
                split.training,
                objective("RotatE", 200),
                width=width("RotatE"),
                steps=100,
                per_block=4,
                negatives=negatives,
                optimiser=optax.adam(RATE),
                mesh=device_mesh(jax.devices()[:devices]),
                shards=8,
            )
            curves[kind, devices] = trained.losses
    rows = []
    for (kind, devices), losses in curves.items():
        difference = np.abs(losses / curves[kind, 1] - 1).max()
        cost = step_cost(
            objective("RotatE", 200),
            trained.shards,
            devices=devices,
            relations=8,
            width=width("RotatE"),
            per_block=4,
            negatives=kinds[kind],
        )
        away = cost.all_to_all_bytes * (devices - 1) // devices
        row = [f"{losses[-1]:.6f}", f"{difference:.1e}", f"{cost.memory_bytes:,}", f"{away:,}"]
        rows.append([kind, str(devices), *row])
    table(
        [
            "negatives",
            "devices",
            "loss after 100 steps",
            "largest relative difference",
            "bytes on each",
            "bytes to others a step, each",
        ],
        rows,
    )


def at_scale() -> None:
    """The paper's graph, WikiKG90Mv2, on 16 devices."""
    entities, relations, shards = 91_230_610, 1_387, 16
    where = EntityShards(
        np.empty(0, np.int32), np.empty(0, np.int32), np.full(shards, -(-entities // shards))
    )
    rows = []
    for moved in ("embeddings", "scores"):
        for negatives in (SharedNegatives(16), SharedNegatives(512), OwnNegatives(1)):
            cost = step_cost(
                Objective(score_function("RotatE"), LogSigmoid(10.0), moved=moved),
                where,
                devices=shards,
                relations=relations,
                width=256,
                per_block=32,
                negatives=negatives,
            )
            exchanged = (cost.all_to_all_bytes + 2 * cost.all_gather_bytes) / 1e6
            of_each = "triple's own" if isinstance(negatives, OwnNegatives) else "shared"
            row = [moved, f"{negatives.count}, {of_each}"]
            rows.append([*row, f"{cost.memory_bytes / 1e9:.1f}", f"{exchanged:.1f}"])
    table(
        ["exchanged", "negatives of each shard", "GB a device", "MB a step and device"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ring-steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--forced", action="store_true", help=argparse.SUPPRESS)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "bess.png")
    arguments = parser.parse_args()
    if arguments.forced:
        forced_devices()
        return
    split = random_split(ring(200, 8), 0.0, 0.1, seed=0)
    on_ring(split, arguments.ring_steps, arguments.seeds, arguments.figure)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, __file__, "--forced"], env=environment, check=True)
    at_scale()


if __name__ == "__main__":
    main()
