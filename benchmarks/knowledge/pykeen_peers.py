"""PyKEEN's own models, trained and ranked as PyKEEN does."""

import time
from typing import Any

import torch
from pykeen.evaluation import RankBasedEvaluator
from pykeen.losses import InfoNCELoss, Loss, NSSALoss
from pykeen.models import model_resolver
from pykeen.sampling import BasicNegativeSampler
from pykeen.training import SLCWATrainingLoop


def peer_loss(margin: float | None) -> Loss:
    """Log-sigmoid with self-adversarial weights, or without a margin a softmax among negatives."""
    if margin is not None:
        return NSSALoss(margin=margin, adversarial_temperature=1.0)
    return InfoNCELoss(margin=0.0, log_adversarial_temperature=0.0)


def peer(
    dataset: Any,
    name: str,
    *,
    dimension: int,
    steps: int,
    batch: int,
    negatives: int,
    rate: float,
    margin: float | None,
    seed: int,
) -> tuple[float, float]:
    """Train one of PyKEEN's models; give its filtered test MRR and triples a CPU second."""
    torch.manual_seed(seed)
    model = model_resolver.make(
        name,
        triples_factory=dataset.training,
        embedding_dim=dimension,
        loss=peer_loss(margin),
        random_seed=seed,
        # The norm that ours has.
        **({"scoring_fct_norm": 1} if name in ("TransE", "TransH") else {}),
    )
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=dataset.training,
        optimizer=torch.optim.Adam(model.parameters(), lr=rate),
        negative_sampler=BasicNegativeSampler,
        negative_sampler_kwargs={"num_negs_per_pos": negatives},
    )
    # The last batch of an epoch is as many steps as the others.
    epochs = round(steps / -(-dataset.training.num_triples // batch))
    start = time.process_time()
    loop.train(
        dataset.training, num_epochs=epochs, batch_size=batch, use_tqdm=False, use_tqdm_batch=False
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
