import jax
import numpy as np
import optax
import pytest
from scipy.stats import rankdata

from qmgen.errors import InputError
from qmgen.knowledge.bess import Objective, device_mesh, train
from qmgen.knowledge.ensemble import best_models, combined
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.link_losses import LogSigmoid, SampledSoftmax
from qmgen.knowledge.link_prediction import link_ranks, ranks_among, scorer_of
from qmgen.knowledge.pykeen_datasets import pykeen_dataset
from qmgen.knowledge.scoring import rotat_e, score_function
from qmgen.knowledge.triple_splits import random_split, split_by_head
from tests.knowledge import unsharded
from tests.knowledge.forced_devices import ENTITIES, graph


def table_scorer(table):
    """Scores that a table of heads, relations and tails has."""

    def scorer(given, relations, end):
        return table[:, relations, given].T if end == "head" else table[given, relations]

    return scorer


def sorted_ranks(table, triple, known):
    """Filtered ranks of a triple's head and tail, by sorting; the mean of equal ones."""
    h, r, t = triple
    own, found = table[h, r, t], []
    for end in ("head", "tail"):
        others = [
            table[e, r, t] if end == "head" else table[h, r, e]
            for e in range(len(table))
            if (((e, r, t) if end == "head" else (h, r, e)) not in known)
        ]
        ordered = sorted([*others, own], reverse=True)
        found.append(np.mean([i + 1 for i, s in enumerate(ordered) if s == own]))
    return found


def test_ranks_are_those_of_sorting():
    some = graph()
    rng = np.random.default_rng(0)
    # Few different scores, so that many are equal.
    table = rng.integers(0, 12, (ENTITIES, 3, ENTITIES)).astype(float)
    known = {tuple(triple) for triple in some.triples.tolist()}
    test = some.triples[::7]
    ranks = link_ranks(table_scorer(table), test, some.triples, ENTITIES, chunk=16)
    heads, tails = zip(
        *(sorted_ranks(table, triple, known) for triple in test.tolist()), strict=True
    )
    assert ranks.head.tolist() == list(heads)
    assert ranks.tail.tolist() == list(tails)
    both = np.concatenate([ranks.head, ranks.tail])
    assert ranks.mrr == pytest.approx((1 / both).mean())
    assert ranks.hits(3) == pytest.approx((both <= 3).mean())


def test_triples_that_are_not_among_the_known():
    table = np.arange(18.0).reshape(3, 2, 3)
    ranks = link_ranks(table_scorer(table), np.array([[0, 1, 0]]), np.array([[0, 0, 1]]), 3)
    assert ranks.tail.tolist() == [3.0]


def test_ranks_among_candidates_are_those_of_scipy():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 4, (40, 6)).astype(float)
    truth = rng.integers(0, 6, 40)
    expected = rankdata(-scores, axis=1)[np.arange(40), truth]
    before = scores.copy()
    np.testing.assert_array_equal(ranks_among(scores, truth), expected)
    np.testing.assert_array_equal(scores, before)
    with pytest.raises(InputError, match="not finite"):
        ranks_among(np.array([[np.nan, 0.0]]), np.array([0]))


def test_one_relation_of_some_entities_is_hidden():
    some = graph()
    name = some.relations[1]
    split = split_by_head(some, name, np.array([3, 5, 8]), np.arange(20, 40))
    parts = [{tuple(t) for t in p.tolist()} for p in (split.training, split.validation, split.test)]
    edges = {tuple(triple) for triple in some.triples.tolist()}
    validation = {(h, r, t) for h, r, t in edges if r == 1 and h in (3, 5, 8)}
    test = {(h, r, t) for h, r, t in edges if r == 1 and 20 <= h < 40}
    assert validation
    assert test
    assert parts == [edges - validation - test, validation, test]
    with pytest.raises(InputError, match="both for validation and for test"):
        split_by_head(some, name, np.array([3]), np.array([3]))
    with pytest.raises(InputError, match="no relation 'colour'"):
        split_by_head(some, "colour", np.array([3]), np.array([4]))


def test_entities_of_a_type():
    some = KnowledgeGraph(
        ("a", "b", "c"), (), np.empty((0, 3), int), ("atom", "bond"), np.array([1, 0, 1])
    )
    assert some.of_type("bond").tolist() == [0, 2]
    with pytest.raises(InputError, match="no type 'ring'; it has atom, bond"):
        some.of_type("ring")


def test_scores_of_trained_embeddings():
    some = graph()
    trained = train(
        some, some.triples, Objective(rotat_e(), LogSigmoid(2.0)), width=6, steps=5, per_block=2,
        negatives=3, optimiser=optax.adam(0.01), mesh=device_mesh(jax.devices()[:1]), shards=4,
    )  # fmt: skip
    flat = np.asarray(trained.embeddings.entities).reshape(-1, 6)[trained.shards.row]
    relations = np.asarray(trained.embeddings.relations)
    given, kinds = np.array([3, 40, 7]), np.array([0, 2, 1])
    scorer = scorer_of(trained)
    score = unsharded.SCORES["RotatE"]
    tails = score(flat[given][:, None], relations[kinds][:, None], flat)
    heads = score(flat, relations[kinds][:, None], flat[given][:, None])
    # Differences of squares against squares of differences.
    np.testing.assert_allclose(scorer(given, kinds, "tail"), tails, atol=1e-4)
    np.testing.assert_allclose(scorer(given, kinds, "head"), heads, atol=1e-4)


def test_ensemble_sums_inverse_roots_of_ranks():
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(6, 2, 6)) for _ in range(3)]
    scorers = [table_scorer(t) for t in tables]
    found = combined(scorers, top=4)(np.array([0, 5]), np.array([1, 0]), "tail")
    for query, (h, r) in enumerate([(0, 1), (5, 0)]):
        expected = np.zeros(6)
        for table in tables:
            for rank, entity in enumerate(np.argsort(-table[h, r])[:4], start=1):
                expected[entity] += 1 / np.sqrt(rank)
        np.testing.assert_allclose(found[query], expected)
    with pytest.raises(InputError, match="at least one"):
        combined([])


def inverse_roots(table, axis):
    """Rank^-1/2 along an axis, by sorting."""
    return (np.argsort(np.argsort(-table, axis=axis), axis=axis) + 1) ** -0.5


# The fifth would make the others worse.
@pytest.mark.parametrize(("take", "number"), [(1, 1), (3, 3), (5, 4)])
def test_best_models_are_those_of_trying_all(take, number):
    rng = np.random.default_rng(2)
    known = np.unique(np.stack([rng.integers(0, n, 60) for n in (9, 2, 9)], axis=1), axis=0)
    validation = known[::2]
    as_set = {tuple(triple) for triple in known.tolist()}
    # The truth and noise of its own in each, so that some together are better than one.
    tables = {name: rng.normal(size=(9, 2, 9)) for name in "dacbe"}
    for table in tables.values():
        table[tuple(known.T)] += 1.0

    def mrr(names):
        by_end = [sum(inverse_roots(tables[name], axis) for name in names) for axis in (0, 2)]
        ranks = [
            [sorted_ranks(table, triple, as_set)[end] for end, table in enumerate(by_end)]
            for triple in validation.tolist()
        ]
        return np.mean(1 / np.array(ranks))

    expected = {}
    for _ in range(take):
        tried = {name: mrr([*expected, name]) for name in tables if name not in expected}
        best = max(tried, key=tried.get)
        if expected and tried[best] <= max(expected.values()):
            break
        expected[best] = tried[best]
    scorers = {name: table_scorer(table) for name, table in tables.items()}
    found = best_models(scorers, validation, known, 9, take)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)
    assert len(found) == number


def test_no_models_to_pick_from():
    triples = np.array([[0, 0, 1]])
    with pytest.raises(InputError, match="0 of 1 models"):
        best_models({"a": table_scorer(np.zeros((3, 1, 3)))}, triples, triples, 3, 0)
    with pytest.raises(InputError, match="2 of 0 models"):
        best_models({}, triples, triples, 3, 2)


def test_not_finite():
    table = np.full((3, 1, 3), np.nan)
    triples = np.array([[0, 0, 1]])
    with pytest.raises(InputError, match="learning rate"):
        link_ranks(table_scorer(table), triples, triples, 3)
    with pytest.raises(InputError, match="no triples"):
        link_ranks(table_scorer(table), triples[:0], triples, 3)


def ring(entities=40, relations=4):
    steps = np.arange(1, relations + 1)
    heads, kinds = np.meshgrid(np.arange(entities), np.arange(relations))
    triples = np.stack([heads, kinds, (heads + steps[kinds]) % entities], axis=-1)
    return KnowledgeGraph(
        tuple(map(str, range(entities))),
        tuple(map(str, range(relations))),
        triples.reshape(-1, 3),
        ("entity",),
        np.zeros(entities, dtype=np.int64),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"), [("RotatE", 0.95, 1.0), ("ComplEx", 0.6, 1.0), ("DistMult", 0.2, 0.6)]
)
def test_models_learn_a_ring(name, low, high):
    split = random_split(ring(), 0.0, 0.1, seed=0)
    distance = name == "RotatE"
    trained = train(
        split.graph,
        split.training,
        Objective(score_function(name), LogSigmoid(6.0) if distance else SampledSoftmax(40)),
        width=64 if name != "DistMult" else 32,
        steps=1500,
        per_block=8,
        negatives=8,
        optimiser=optax.adam(0.02),
        mesh=device_mesh(jax.devices()[:1]),
        shards=4,
    )
    ranks = link_ranks(scorer_of(trained), split.test, split.graph.triples, 40)
    # A rotation is what a step around a ring is; what is the same both ways can't be one.
    assert low <= ranks.mrr <= high


@pytest.mark.slow
def test_ranks_are_those_of_pykeen():
    pytest.importorskip("pykeen")
    import torch
    from pykeen.datasets import Nations
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import DistMult

    given = Nations()
    split = pykeen_dataset(given)
    model = DistMult(triples_factory=given.training, embedding_dim=8, random_seed=1)
    theirs = RankBasedEvaluator().evaluate(
        model,
        given.testing.mapped_triples,
        additional_filter_triples=[given.training.mapped_triples, given.validation.mapped_triples],
        use_tqdm=False,
    )

    def scorer(ends, relations, end):
        some, kinds = torch.from_numpy(ends), torch.from_numpy(relations)
        with torch.no_grad():
            if end == "tail":
                return model.score_t(torch.stack([some, kinds], 1)).numpy()
            return model.score_h(torch.stack([kinds, some], 1)).numpy()

    ranks = link_ranks(scorer, split.test, split.graph.triples, len(split.graph.entities))
    assert ranks.mrr == pytest.approx(theirs.get_metric("both.realistic.mrr"), rel=1e-5)
    for k in (1, 3, 10):
        assert ranks.hits(k) == pytest.approx(theirs.get_metric(f"both.realistic.hits@{k}"))
