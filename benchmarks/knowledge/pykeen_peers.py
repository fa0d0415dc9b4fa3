"""Nations, Kinships and UMLS: models trained as in BESS beside PyKEEN's own.

Both have the same split, sizes, losses, optimiser and one thread. PyKEEN draws negatives for each
triple, which is tried here, too, beside negatives that a batch shares. Run as
`make benchmark-knowledge`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
from bess import DIMENSION, DISTANCES, MARGIN, MODELS, RATE, objective, width
from pykeen.datasets import get_dataset
from pykeen.evaluation import RankBasedEvaluator
from pykeen.losses import InfoNCELoss, Loss, NSSALoss
from pykeen.models import model_resolver
from pykeen.sampling import BasicNegativeSampler
from pykeen.training import SLCWATrainingLoop

from benchmarks.reporting import table
from qmgen.knowledge.bess import Trained, device_mesh, initial_embeddings, training_loop
from qmgen.knowledge.draws import ShuffledBlocks, draw_steps
from qmgen.knowledge.ensemble import best_models, combined
from qmgen.knowledge.link_prediction import Scorer, link_ranks, scorer_of
from qmgen.knowledge.negatives import Negatives, OwnNegatives, SharedNegatives
from qmgen.knowledge.pykeen_datasets import pykeen_dataset
from qmgen.knowledge.sharding import block_triples, shard_entities
from qmgen.knowledge.triple_splits import TripleSplit


class Setting(NamedTuple):
    """What both sides have in common."""

    steps: int
    batch: int
    negatives: int
    seeds: int


def peer_loss(margin: float | None) -> Loss:
    """Log-sigmoid with self-adversarial weights, or without a margin a softmax among negatives."""
    if margin is not None:
        return NSSALoss(margin=margin, adversarial_temperature=1.0)
    return InfoNCELoss(margin=0.0, log_adversarial_temperature=0.0)


def peer(dataset: Any, name: str, setting: Setting, seed: int) -> tuple[float, float]:
    """Train one of PyKEEN's models; give its filtered test MRR and triples a CPU second."""
    torch.manual_seed(seed)
    model = model_resolver.make(
        name,
        triples_factory=dataset.training,
        embedding_dim=DIMENSION,
        loss=peer_loss(MARGIN if name in DISTANCES else None),
        random_seed=seed,
        # The norm that ours has.
        **({"scoring_fct_norm": 1} if name in ("TransE", "TransH") else {}),
    )
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=dataset.training,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
        negative_sampler=BasicNegativeSampler,
        negative_sampler_kwargs={"num_negs_per_pos": setting.negatives},
    )
    # The last batch of an epoch is as many steps as the others.
    epochs = round(setting.steps / -(-dataset.training.num_triples // setting.batch))
    start = time.process_time()
    loop.train(
        dataset.training,
        num_epochs=epochs,
        batch_size=setting.batch,
        use_tqdm=False,
        use_tqdm_batch=False,
    )
    seconds = time.process_time() - start
    found = RankBasedEvaluator().evaluate(
        model,
        dataset.testing.mapped_triples,
        additional_filter_triples=[
            dataset.training.mapped_triples,
            dataset.validation.mapped_triples,
        ],
        batch_size=256,
        use_tqdm=False,
    )
    rate_of_triples = epochs * dataset.training.num_triples / seconds
    return float(found.get_metric("both.realistic.mrr")), rate_of_triples


def ours(
    split: TripleSplit, name: str, setting: Setting, negatives: Negatives
) -> tuple[list[Scorer], list[float]]:
    """Train on one device, a program for all seeds.

    Also triples per second of the processor, compilation apart.
    """
    what, mesh = objective(name, len(split.graph.entities)), device_mesh(jax.devices()[:1])
    optimiser = optax.adam(RATE)
    shards = shard_entities(len(split.graph.entities), 1, seed=0)
    blocks = block_triples(split.training, shards)
    run = training_loop(what, optimiser, blocks, mesh)

    def train_once(seed: int) -> tuple[Scorer, float]:
        start = initial_embeddings(
            what.score, shards, len(split.graph.relations), width(name), mesh, seed=seed
        )
        state = optimiser.init(start)
        begin = time.process_time()
        rng = np.random.default_rng(seed)
        draws = draw_steps(
            ShuffledBlocks(blocks, rng),
            shards,
            steps=setting.steps,
            per_block=setting.batch,
            negatives=negatives,
            corrupted=what.corrupted,
            rng=rng,
        )
        embeddings, _, losses = jax.block_until_ready(run(start, state, draws))
        rate = setting.steps * setting.batch / (time.process_time() - begin)
        return scorer_of(Trained(what.score, embeddings, shards, np.asarray(losses))), rate

    train_once(0)
    scorers, rates = zip(*map(train_once, range(setting.seeds)), strict=True)
    return list(scorers), list(rates)


def spread(mrr: list[float]) -> str:
    return f"{np.mean(mrr):.3f} ({min(mrr):.3f} to {max(mrr):.3f})"


def beside_pykeen(dataset_name: str, setting: Setting) -> Iterator[list[str]]:
    """Rows of a table, as they are computed."""
    dataset = get_dataset(dataset=dataset_name)
    split = pykeen_dataset(dataset)
    known, n = split.graph.triples, len(split.graph.entities)

    def test_mrr(scorer: Scorer) -> float:
        return link_ranks(scorer, split.test, known, n).mrr

    candidates = {}
    for name in MODELS:
        shared, _ = ours(split, name, setting, SharedNegatives(setting.negatives))
        own, rates = ours(split, name, setting, OwnNegatives(setting.negatives))
        candidates |= {f"{name} {seed}": scorer for seed, scorer in enumerate(own)}
        found = [peer(dataset, name, setting, seed) for seed in range(setting.seeds)]
        theirs, their_rates = zip(*found, strict=True)
        mrr = [test_mrr(scorer) for scorer in own]
        yield [
            dataset_name,
            name,
            spread([test_mrr(scorer) for scorer in shared]),
            spread(mrr),
            spread(list(theirs)),
            "yes" if np.mean(mrr) >= min(theirs) else "NO",
            f"{np.median(rates):,.0f}",
            f"{np.median(rates) / np.median(their_rates):.1f}",
        ]
    yield [dataset_name, *ensemble_row(split, candidates), *[""] * 4]


def ensemble_row(split: TripleSplit, candidates: dict[str, Scorer]) -> list[str]:
    """Names and test MRR of an ensemble picked on validation, beside others."""
    known, n = split.graph.triples, len(split.graph.entities)

    def of(names: Sequence[str]) -> float:
        return link_ranks(combined([candidates[k] for k in names]), split.test, known, n).mrr

    picked = list(best_models(candidates, split.validation, known, n, len(candidates)))
    everyone = (
        f"the first alone {of(picked[:1]):.3f}, all {len(candidates)} {of([*candidates]):.3f}"
    )
    return [f"ensemble of {', '.join(picked)}", "", f"{of(picked):.3f}; {everyone}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["nations", "kinships", "umls"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--negatives", type=int, default=32)
    arguments = parser.parse_args()
    setting = Setting(arguments.steps, arguments.batch, arguments.negatives, arguments.seeds)
    torch.set_num_threads(1)
    header = [
        "dataset",
        "model",
        "MRR, negatives shared",
        "MRR, each triple's own",
        "PyKEEN's",
        "own not below its range",
        "triples per second of the processor, own",
        "times PyKEEN's",
    ]
    table(header, (row for name in arguments.datasets for row in beside_pykeen(name, setting)))


if __name__ == "__main__":
    main()
