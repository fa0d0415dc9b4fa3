"""Guesses at edges that a molecular graph lacks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import MoleculeRecord, open_dataset
from qmgen.knowledge.graph import graph_from_names
from qmgen.knowledge.molecular_graph import molecular_graph
from qmgen.knowledge.queries.plausible_tails import PlausibleTails
from qmgen.knowledge.triple_files import write_graph
from tests.knowledge.conftest import made_up_record, store_of

EDGES = [
    ("m0", "bin", "low"),
    ("m1", "bin", "high"),
    ("m4", "bin", "high"),
    ("m0", "group", "amine"),
    ("m0", "group", "ether"),
    ("m2", "group", "ether"),
    ("m3", "group", "amine"),
]
KINDS = {f"m{i}": "molecule" for i in range(5)}
KINDS |= {"low": "bin", "high": "bin", "amine": "group", "ether": "group"}


class Table:
    """Probabilities by relation, direction, source and end."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __call__(self, sources: np.ndarray, relation: int, inverse: bool) -> np.ndarray:
        return self.values[relation, int(inverse), sources]


def test_guesses_are_what_stored_edges_leave_possible() -> None:
    graph = graph_from_names(*map(list, zip(*EDGES, strict=True)), kinds=KINDS)
    values = np.random.default_rng(0).random((2, 2, 9, 9))
    tails = PlausibleTails.of(Table(values), graph)
    molecules, bins, groups = [0, 1, 2, 3, 4], [5, 6], [7, 8]
    of_bin, of_group = map(graph.relations.index, ("bin", "group"))

    # A molecule has one bin; those that have none get one of the two.
    expected = np.zeros((5, 9))
    for m in (2, 3):
        expected[m, bins] = values[of_bin, 0, m, bins] / values[of_bin, 0, m, bins].sum()
    np.testing.assert_allclose(tails(np.array(molecules), of_bin, False), expected)
    # Molecules of a bin are asked for their own, so that the bins' probabilities add up to one.
    found = tails(np.array(bins), of_bin, True)
    np.testing.assert_allclose(found, expected[:, bins].T @ np.eye(5, 9))
    np.testing.assert_allclose(found[:, [2, 3]].sum(axis=0), 1.0)
    # A molecule may have further groups, and a group further molecules.
    for inverse, sources, ends in ((False, molecules, groups), (True, groups, molecules)):
        expected = np.zeros((len(sources), 9))
        for row, source in zip(expected, sources, strict=True):
            own = values[of_group, int(inverse), source, ends]
            row[ends] = own / own.sum()
        np.testing.assert_allclose(tails(np.array(sources), of_group, inverse), expected)
    # Of what lacks nothing there is nothing to guess.
    all_there = PlausibleTails.of(Table(values), graph, complete=("group",))
    assert not all_there(np.array(molecules), of_group, False).any()
    assert not all_there(np.array(groups), of_group, True).any()
    assert all_there(np.array(bins), of_bin, True).any()


GAPS_HARTREE = {"O": 0.5, "N": 0.4, "C#N": 0.3, "S": 0.2}
CHAINS = (
    "C", "CC", "CCC", "CCCC", "CC(C)", "CC(C)C", "CCCCC", "CC(C)CC", "CCCCCC", "C1CC1C",
    "C1CCC1C", "CC(C)(C)C",
)  # fmt: skip


def record(chain: str, end: str, line: int) -> MoleculeRecord:
    """A molecule whose gap follows from its functional group."""
    made_up = made_up_record(chain + end, line)
    made_up.conformers["gap"][:] = GAPS_HARTREE[end] + 1e-4 * (line % 12)
    return made_up


@pytest.mark.slow
def test_command_predicts_bins_of_molecules(tmp_path: Path) -> None:
    pairs = [(chain, end) for end in GAPS_HARTREE for chain in CHAINS]
    records = [record(chain, end, 100 + i) for i, (chain, end) in enumerate(pairs)]
    whole = molecular_graph(open_dataset(store_of(records, tmp_path)), bins=4)
    # Two of each group.
    hidden = {f"molecule:{r.smile}" for r in (*records[2::12], *records[7::12])}
    lacks = np.array(
        [
            whole.relations[r] == "gap_bin" and whole.entities[h] in hidden
            for h, r, _ in whole.triples.tolist()
        ]
    )
    file = tmp_path / "graph.nt"
    write_graph(replace(whole, triples=whole.triples[~lacks]), file)
    alcohols = {f"molecule:{r.smile}" for r in records[:12]}
    highest = next(name for name in whole.entities if name.startswith("gap:") and "more" in name)
    question = f'What has the gap bin "{highest.removeprefix("gap:")}"?'
    result = CliRunner().invoke(app, ["knowledge", "ask", str(file), question, "--predict"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert set(lines[0].removeprefix("in the graph: ").split(", ")) == alcohols - hidden
    start = "further guesses, predicted, not certain: "
    (guessed,) = (line.removeprefix(start) for line in lines if line.startswith(start))
    names = [guess.split(" (")[0] for guess in guessed.split(", ")]
    assert set(names[:2]) == alcohols & hidden
    assert set(names) <= hidden
    assert any(line.startswith("note: ") and "similar_to" in line for line in lines)
