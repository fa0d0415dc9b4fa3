"""What the page is told, against the reader and RDKit."""

import json
from typing import Any

import numpy as np
import pytest
from rdkit import Chem

from qmgen.dataset import SPLITS, Dataset
from qmgen.inspection import answers as module
from qmgen.inspection import search as search_module
from qmgen.inspection.answers import Answers
from qmgen.inspection.molecule_index import index_molecules
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tests.inspection.conftest import HOSTILE, SMILES, Write, fails, record


@pytest.fixture(scope="module")
def answers(dataset: Dataset) -> Answers:
    return Answers(dataset, scan_seconds=60.0)


def rows_of(given: dict) -> list[int]:
    return [card["molecule"] for card in given["molecules"]]


def test_index_against_the_reader(
    dataset: Dataset,
    molecules: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Blocks that end within molecules.
    monkeypatch.setattr("qmgen.inspection.molecule_index._BLOCK_ROWS", 11)
    index = index_molecules(dataset)
    assert index.molecule.tolist() == list(range(13))
    for i, molecule in enumerate(molecules):
        rows = dataset.conformers_of(i)
        energy = np.where(molecule["converged"], molecule["energy"], np.inf)
        assert index.row[i] == rows[int(energy.argmin())]
        assert index.count[i] == len(rows)
        assert SPLITS[index.split[i]] == molecule["split"]
        assert index.charge[i] == molecule["charge"]


def test_without_converged_conformer_the_first_one_stands(write: Write) -> None:
    records = [record("O", 1, 2), record("CCC", 2, 4)]
    records[0].conformers["converged"][:] = False
    index = index_molecules(write(records))
    assert (index.row[0], index.count.tolist()) == (0, [2, 4])
    assert index.row[1] == 2 + records[1].conformers["energy"].argmin()


def test_about(dataset: Dataset, answers: Answers) -> None:
    about = answers.about()
    assert about["charges"] == [0, 1]
    assert {"energy", "gap", "dipole", "iterations"} <= {label["name"] for label in about["labels"]}
    assert (about["conformers"], about["with_conformers"]) == (len(dataset), 13)
    json.dumps(about, allow_nan=False)


@pytest.mark.parametrize("smarts", ["[OX2H]", "c1ccccc1", "C(=O)", "[#7]", "Br"])
def test_substructures_are_rdkits(answers: Answers, smarts: str) -> None:
    pattern = Chem.MolFromSmarts(smarts)
    expected = [
        i for i, text in enumerate(SMILES) if Chem.MolFromSmiles(text).HasSubstructMatch(pattern)
    ]
    found = answers.molecules({"query": smarts, "kind": "substructure"})
    assert rows_of(found) == expected
    assert found["total"] == len(expected)
    assert (found["scanned"], found["stopped"]) == (13, "")


def test_whole_molecules_in_any_spelling(answers: Answers) -> None:
    assert rows_of(answers.molecules({"query": "OCC", "kind": "molecule"})) == [0]
    assert rows_of(answers.molecules({"query": "Oc1ccccc1", "kind": "molecule"})) == [1]
    assert rows_of(answers.molecules({"query": "CC", "kind": "molecule"})) == []


@pytest.mark.parametrize("descending", ["", "1"])
def test_sorted_by_the_label_of_the_lowest_conformer(
    molecules: list[dict[str, Any]], answers: Answers, descending: str
) -> None:
    given = answers.molecules({"sort": "gap", "descending": descending})
    gaps = {}
    for i, molecule in enumerate(molecules):
        lowest = np.where(molecule["converged"], molecule["energy"], np.inf).argmin()
        gaps[i] = molecule["gap"][lowest] * EV_PER_HARTREE
    known = sorted((i for i in gaps if np.isfinite(gaps[i])), key=gaps.__getitem__)
    if descending:
        known.reverse()
    assert rows_of(given) == [*known, 3]  # pentane's is not known
    values = [card["label"]["value"] for card in given["molecules"]]
    np.testing.assert_allclose(values[:-1], [gaps[i] for i in known])
    assert values[-1] is None


def test_filters_and_pages(
    molecules: list[dict[str, Any]], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_of(answers.molecules({"charge": "1"})) == [5]
    by_split = {split: rows_of(answers.molecules({"split": split})) for split in SPLITS}
    assert sorted(row for rows in by_split.values() for row in rows) == list(range(13))
    for split, rows in by_split.items():
        assert rows
        assert {molecules[i]["split"] for i in rows} == {split}
    monkeypatch.setattr(module, "PAGE_SIZE", 5)
    pages = [answers.molecules({"page": str(i)}) for i in (1, 2, 3)]
    assert [len(page["molecules"]) for page in pages] == [5, 5, 3]
    assert [row for page in pages for row in rows_of(page)] == list(range(13))
    assert {page["pages"] for page in pages} == {3}
    assert answers.molecules({"page": "99"})["page"] == 3
    assert answers.molecules({"page": "-1"})["page"] == 1


def test_a_search_that_runs_out_of_time_goes_on(dataset: Dataset) -> None:
    hurried = Answers(dataset, scan_seconds=1e-9)
    asked = {"query": "[#6]"}
    seen = []
    for _ in range(100):
        answer = hurried.molecules(asked)
        seen.append(answer["scanned"])
        if not answer["can_go_on"]:
            break
        assert answer["stopped"].startswith("stopped after")
    assert len(seen) > 3
    assert seen == sorted(set(seen))
    assert answer["scanned"] == 13
    assert answer["stopped"] == ""
    patient = Answers(dataset, scan_seconds=60.0).molecules(asked)
    assert rows_of(answer) == rows_of(patient)


def test_a_search_stops_at_so_many_matches(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in (search_module, module):
        monkeypatch.setattr(where, "MAX_MATCHES", 2)
    answer = Answers(dataset, scan_seconds=60.0).molecules({"query": "[#6]"})
    assert (answer["total"], answer["stopped"]) == (2, "stopped at 2 matches")
    assert not answer["can_go_on"]
    assert answer["scanned"] < 13


def test_only_the_latest_searches_are_kept(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT_SEARCHES", 2)
    answers = Answers(dataset)
    for query in ("C", "N", "C", "O"):
        answers.molecules({"query": query})
    assert [query for _, query in answers._searches] == ["C", "O"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"query": "c1ccc"}, "unclosed ring"),
        ({"query": HOSTILE}, "SMARTS"),
        ({"query": "C1", "kind": "molecule"}, "unclosed ring"),
        ({"query": "C", "kind": "name"}, "no kind of search 'name'"),
        ({"split": "all"}, "no split 'all'; the splits are train, val, test"),
        ({"charge": "one"}, "charge: a whole number is expected"),
        ({"sort": "forces"}, "no label 'forces'; there are energy"),
        ({"page": "x" * 100}, "page: a whole number is expected"),
    ],
)
def test_impossible_questions(answers: Answers, asked: dict[str, str], words: str) -> None:
    assert words in fails(lambda: answers.molecules(asked))


def test_molecule(dataset: Dataset, answers: Answers) -> None:
    given = answers.molecule(2)
    assert (given["smiles"], given["composition"], given["charge"]) == ("CC(=O)O", "C2H4O2", 0)
    rows = dataset.conformers_of(2)
    assert [c["row"] for c in given["conformers"]] == list(rows)
    assert [c["above_ev"] is None for c in given["conformers"]] == [True, False, False, False]
    assert min(c["above_ev"] for c in given["conformers"][1:]) == 0
    assert answers.molecule(0)["name"] == HOSTILE
    assert answers.molecule(12)["picture"] is None
    json.dumps(given, allow_nan=False)
    for number in (13, 10**14):
        with pytest.raises(IndexError):
            answers.molecule(number)


def test_conformer_has_every_label(dataset: Dataset, answers: Answers) -> None:
    row = dataset.conformers_of(6)[1]
    given, stored = answers.conformer(row), dataset[row]
    json.dumps(given, allow_nan=False)
    labels = {label["name"]: label for label in given["labels"]}
    assert labels["energy"]["value"] == stored["energy"]
    assert labels["gap"]["unit"] == "eV"
    np.testing.assert_allclose(labels["gap"]["value"], stored["gap"] * EV_PER_HARTREE)
    np.testing.assert_allclose(
        np.linalg.norm(labels["dipole"]["components"]), labels["dipole"]["value"]
    )
    np.testing.assert_allclose(labels["quadrupole"]["components"], stored["quadrupole"].ravel())
    first, _, *lines = given["xyz"].splitlines()
    assert int(first) == len(lines) == len(stored["z"])
    mol = Chem.MolFromXYZBlock(given["xyz"])
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == stored["z"].tolist()
    np.testing.assert_allclose(
        mol.GetConformer().GetPositions(), stored["pos"] * ANGSTROM_PER_BOHR, atol=1e-6
    )
    titles = [column["title"] for column in given["atom_columns"]]
    charges = [atom[1 + titles.index("Mulliken charge of an atom")] for atom in given["atoms"]]
    np.testing.assert_allclose(charges, stored["mulliken_charges"])
    (orbitals,) = given["orbitals"]
    np.testing.assert_allclose(orbitals["values"], stored["orbital_energies"] * EV_PER_HARTREE)


@pytest.mark.parametrize("kind", ["imported", "failed"])
def test_other_stores(kind: str, request: pytest.FixtureRequest) -> None:
    dataset: Dataset = request.getfixturevalue(kind)
    answers = Answers(dataset)
    json.dumps(answers.about(), allow_nan=False)
    page = answers.molecules({"sort": "gap", "query": "C"})
    json.dumps(page, allow_nan=False)
    assert page["pages"] == 1
    if kind == "failed":
        assert page["molecules"] == []
    else:
        assert {card["label"]["value"] for card in page["molecules"]} == {None}
        json.dumps(answers.conformer(0), allow_nan=False)
