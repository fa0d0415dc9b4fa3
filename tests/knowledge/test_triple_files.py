import numpy as np
import pandas as pd
import pytest

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph, Quantity, graph_from_names
from qmgen.knowledge.pykeen_datasets import pykeen_dataset
from qmgen.knowledge.triple_files import read_graph, write_graph


def named(graph):
    return {
        (graph.entities[h], graph.relations[r], graph.entities[t])
        for h, r, t in graph.triples.tolist()
    }


def numbers(graph):
    return {
        (q.name, q.description, entity): value
        for q in graph.quantities
        for entity, value in zip(graph.entities, q.values.tolist(), strict=True)
        if not np.isnan(value)
    }


def kinds(graph):
    return {e: graph.types[k] for e, k in zip(graph.entities, graph.type_of.tolist(), strict=True)}


@pytest.fixture
def full(random_graph):
    """A graph with two types, quantities and an entity without edges."""
    graph = random_graph(1)
    entities = (*graph.entities, "<alone> \"'#%")
    values = np.where(np.arange(9) % 2, np.linspace(-1, 1, 9) / 3, np.nan)
    return KnowledgeGraph(
        entities,
        graph.relations,
        graph.triples,
        ("a kind", "another"),
        np.arange(9) % 2,
        (Quantity("gap_ev", "gap in eV", values), Quantity("mass_da", "", 0 * values)),
        ("one note", "two"),
    )


@pytest.mark.parametrize("suffix", [".nt", ".parquet"])
def test_everything_comes_back(tmp_path, full, suffix):
    write_graph(full, tmp_path / f"graph{suffix}")
    back = read_graph(tmp_path / f"graph{suffix}")
    assert back.entities == full.entities
    assert named(back) == named(full)
    assert len(back.triples) == len(full.triples)
    assert kinds(back) == kinds(full)
    assert numbers(back) == numbers(full)
    assert back.notes == full.notes


def test_edges_come_back_from_tsv(tmp_path, full):
    write_graph(full, tmp_path / "graph.tsv")
    assert named(read_graph(tmp_path / "graph.tsv")) == named(full)
    table = pd.read_csv(tmp_path / "graph.tsv", sep="\t", header=None, quoting=3)
    assert {tuple(row) for row in table.to_numpy()} == named(full)


def test_an_edge_given_twice_is_one(tmp_path):
    (tmp_path / "a.tsv").write_text("x\tr\ty\ny\tr\tx\nx\tr\ty\n")
    assert named(read_graph(tmp_path / "a.tsv")) == {("x", "r", "y"), ("y", "r", "x")}
    assert len(read_graph(tmp_path / "a.tsv").triples) == 2


def test_parquet_of_others(tmp_path):
    rows = {"tail": ["b", "c"], "head": ["a", "b"], "relation": ["r", "s"], "more": [1, 2]}
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert named(read_graph(tmp_path / "a.parquet")) == {("a", "r", "b"), ("b", "s", "c")}


def test_ntriples_of_others(tmp_path):
    (tmp_path / "a.nt").write_text(
        '<http://x/a> <http://x/r> <http://x/b> .\n<http://x/a> <http://x/name> "water"@en .\n'
        '<http://x/a> <http://x/mass> "18.0"^^<http://www.w3.org/2001/XMLSchema#decimal> .\n'
    )
    graph = read_graph(tmp_path / "a.nt")
    assert named(graph) == {
        ("http://x/a", "http://x/r", "http://x/b"),
        ("http://x/a", "http://x/name", '"water"@en'),
    }
    assert numbers(graph) == {("http://x/mass", "", "http://x/a"): 18.0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "x\tr\ty\nx\tr\n", "line 2: 2 columns.*tab"),
        ("a.tsv", "x\tr\ty\n\nx\tr\tz\n", "line 2.*tab"),
        ("a.tsv", "x\tr\ty\nx\tr\t\n", "line 2: the tail is empty"),
        ("a.nt", "<u:a> <u:b> <u:c> .\n<u:a> <u:b> .\n", "line 2.*full stop"),
        ("a.nt", '<u:a> <u:b> 1 .\n', "line 1"),
        ("a.parquet", "no", "no Parquet"),
        ("a.csv", "x,r,y", r"\.tsv, \.nt or \.parquet"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_graph(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_graph(tmp_path / "a.nt")


def test_two_numbers_of_one_kind(tmp_path):
    number = '<u:a> <u:m> "{}"^^<http://www.w3.org/2001/XMLSchema#double> .\n'
    (tmp_path / "a.nt").write_text(number.format(1) + number.format(2))
    with pytest.raises(InputError, match="two numbers"):
        read_graph(tmp_path / "a.nt")


def test_names_that_tsv_cannot_hold(tmp_path):
    with pytest.raises(InputError, match=r"\.nt"):
        write_graph(graph_from_names(["a\tb"], ["r"], ["c"]), tmp_path / "a.tsv")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pykeen_dataset():
    datasets = pytest.importorskip("pykeen.datasets")
    given = datasets.Nations()
    split = pykeen_dataset("nations")
    for part, factory in (
        (split.training, given.training),
        (split.validation, given.validation),
        (split.test, given.testing),
    ):
        found = {
            (split.graph.entities[h], split.graph.relations[r], split.graph.entities[t])
            for h, r, t in part.tolist()
        }
        assert found == {tuple(row) for row in factory.label_triples(factory.mapped_triples)}
    assert len(split.graph.triples) == sum(map(len, (split.training, split.validation, split.test)))


def test_pykeen_does_not_know_it():
    pytest.importorskip("pykeen")
    with pytest.raises(InputError, match="no-such"):
        pykeen_dataset("no-such-graph")
