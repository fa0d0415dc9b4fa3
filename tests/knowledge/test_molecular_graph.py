from collections import Counter

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import Fragments as RDKitFragments
from rdkit.Chem import rdFingerprintGenerator
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import open_dataset
from qmgen.errors import InputError
from qmgen.knowledge.molecular_graph import molecular_graph
from qmgen.knowledge.triple_files import read_graph
from qmgen.molecules import fragments, scaffold, similar_pairs
from tests.knowledge.conftest import SMILES, made_up_record, store_of

NAMES = [Chem.CanonSmiles(s) for s in SMILES]


def edges(graph, relation):
    r = graph.relations.index(relation)
    return {(graph.entities[h], graph.entities[t]) for h, k, t in graph.triples.tolist() if k == r}


@pytest.fixture(scope="module")
def graph(store):
    return molecular_graph(open_dataset(store), similarity=0.3, bins=3)


def test_molecules(graph):
    found = [
        e
        for e, k in zip(graph.entities, graph.type_of, strict=True)
        if graph.types[k] == "molecule"
    ]
    # Ethanol is there once, and the ninth has no SMILES.
    assert found == [f"molecule:{n}" for n in [*NAMES[:8], "row 8", NAMES[9]]]


def test_structure(graph):
    molecules = {f"molecule:{n}": Chem.MolFromSmiles(n) for n in NAMES if n != "C#N"}
    symbols = {
        (name, f"element:{a.GetSymbol()}")
        for name, mol in molecules.items()
        for a in Chem.AddHs(mol).GetAtoms()
    }
    symbols |= {("molecule:row 8", f"element:{s}") for s in "CHN"}
    assert edges(graph, "has_element") == symbols
    assert edges(graph, "has_scaffold") == {
        (f"molecule:{n}", f"scaffold:{scaffold(n)}") for n in NAMES if scaffold(n)
    }
    rings = edges(graph, "has_ring")
    benzene = Chem.MolFromSmarts("c1ccccc1")
    assert {m for m, ring in rings if ring == "ring:c1ccccc1" and m in molecules} == {
        name for name, mol in molecules.items() if mol.HasSubstructMatch(benzene)
    }
    # N-methylpyrrole holds pyrrole, as its scaffold does.
    assert {
        ("molecule:Cn1cccc1", "ring:c1cc[nH]c1"),
        ("scaffold:c1cc[nH]c1", "ring:c1cc[nH]c1"),
    } <= rings


def test_similarity_is_symmetric_and_stated(graph):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    names = [n for n in dict.fromkeys(NAMES) if n != "C#N"]
    bits = {n: generator.GetFingerprint(Chem.MolFromSmiles(n)) for n in names}
    expected = {
        (f"molecule:{a}", f"molecule:{b}")
        for a in names
        for b in names
        if a != b and DataStructs.TanimotoSimilarity(bits[a], bits[b]) >= 0.3
    }
    assert edges(graph, "similar_to") == expected
    assert expected
    assert any("Morgan" in note and "0.3" in note for note in graph.notes)


@pytest.mark.parametrize("reduction", ["lowest", "mean"])
def test_quantities(store, reduction):
    dataset = open_dataset(store)
    graph = molecular_graph(dataset, conformers=reduction)
    rows = dataset.batch(slice(None), ["smile", "energy", "gap", "converged"])
    gap = next(q for q in graph.quantities if q.name == "gap_ev")
    assert "eV" in gap.description
    assert "b3lyp/sto-3g" in gap.description
    for name in dict.fromkeys(NAMES):
        if name == "C#N":
            continue
        own = (rows["smile"] == name) & rows["converged"]
        energy, value = rows["energy"][own], rows["gap"][own] * 27.211386245988
        expected = value[energy.argmin()] if reduction == "lowest" else value.mean()
        found = gap.values[graph.entities.index(f"molecule:{name}")]
        assert found == pytest.approx(expected, rel=1e-12)
    of_others = [
        np.isnan(gap.values[i]) for i, e in enumerate(graph.entities) if "molecule" not in e
    ]
    assert all(of_others)


def test_bins_hold_their_values(graph):
    gap = next(q for q in graph.quantities if q.name == "gap_ev")
    counts = Counter()
    for molecule, label in edges(graph, "gap_bin"):
        value = gap.values[graph.entities.index(molecule)]
        words = label.removeprefix("gap:").split()
        low = -np.inf if words[0] == "below" else float(words[0])
        high = (
            float(words[1])
            if words[0] == "below"
            else np.inf
            if "more" in words
            else float(words[2])
        )
        assert low <= value < high
        counts[label] += 1
    # Ten molecules in thirds.
    assert sorted(counts.values()) == [3, 3, 4]


def test_groups_are_those_of_rdkit():
    pairs = {
        "phenol": RDKitFragments.fr_Ar_OH,
        "aldehyde": RDKitFragments.fr_aldehyde,
        "carboxylic acid": lambda m: RDKitFragments.fr_Al_COO(m) + RDKitFragments.fr_Ar_COO(m),
        "nitrile": RDKitFragments.fr_nitrile,
        "epoxide": RDKitFragments.fr_epoxide,
        "oxime": RDKitFragments.fr_oxime,
        "thiol": RDKitFragments.fr_SH,
        "amide": RDKitFragments.fr_amide,
        "nitro": RDKitFragments.fr_nitro,
    }
    molecules = [
        "CCO", "Oc1ccccc1", "CC=O", "O=Cc1ccccc1", "CC(=O)O", "OC(=O)c1ccccc1", "CC#N", "C1CO1",
        "CC=NO", "CS", "CC(=O)NC", "CC(=O)OC", "C[N+](=O)[O-]", "CN", "CNC", "COC", "C=C",
        "CC(C)=O",
    ]  # fmt: skip
    for smiles in molecules:
        mol = Chem.MolFromSmiles(smiles)
        for name, count in pairs.items():
            assert (name in fragments(smiles).groups) == bool(count(mol)), (smiles, name)


@pytest.mark.parametrize("cutoff", [0.2, 0.5, 1.0])
def test_pairs_are_those_of_all_against_all(cutoff):
    names = [*SMILES, "CCCO", "CCCCO", "Cc1ccccc1N"]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(n)) for n in names]
    expected = {
        (i, j): DataStructs.TanimotoSimilarity(bits[i], bits[j])
        for i in range(len(names))
        for j in range(i + 1, len(names))
    }
    pairs, values = similar_pairs(names, cutoff)
    found = {tuple(p): v for p, v in zip(pairs.tolist(), values.tolist(), strict=True)}
    assert found == {p: v for p, v in expected.items() if v >= cutoff}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"similarity": 0.0}, "above 0"), ({"bins": 1}, "2 bins")],
)
def test_arguments_out_of_range(store, arguments, message):
    with pytest.raises(InputError, match=message):
        molecular_graph(open_dataset(store), **arguments)


def test_scaffold_that_rdkit_writes_but_does_not_read(tmp_path):
    # The 4-pyridone's charges leave no way to place its double bonds once oxygen is cut off.
    record = made_up_record("[NH2+]=c1[nH]ccc(=O)[c-]1O", 1)
    graph = molecular_graph(open_dataset(store_of([record], tmp_path)))
    name = scaffold(record.smile)
    assert Chem.MolFromSmiles(name) is None
    rings = edges(graph, "has_ring")
    of_scaffold = {ring for head, ring in rings if head == f"scaffold:{name}"}
    assert len(of_scaffold) == 1
    assert of_scaffold == {ring for head, ring in rings if head.startswith("molecule:")}


def test_command(store, tmp_path, graph):
    output = tmp_path / "graph.parquet"
    command = ["knowledge", "build", str(store), str(output), "--similarity", "0.3", "--bins", "3"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert read_graph(output).entities == graph.entities
