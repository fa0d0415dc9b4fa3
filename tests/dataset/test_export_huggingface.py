import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from qmgen.dataset import ImportedLabels, export_huggingface, open_dataset
from qmgen.dataset.dataset_card import dataset_card, level_of_theory
from qmgen.dataset.schema import COLUMNS
from qmgen.errors import InputError, StoreError

OPTIONAL = ("forces", "fock_matrix")
SPLITS = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, make_records, provenance):
    from qmgen.dataset import write_store

    path = tmp_path_factory.mktemp("store") / "alcohols.zarr"
    config = {"dft": {"functional": "b3lyp5", "basis": "sto-3g"}}
    write_store(
        path,
        make_records(30, optional_labels=OPTIONAL),
        (),
        provenance.model_copy(update={"config": config}),
        split_seed=1,
        split_fractions=(0.5, 0.25, 0.25),
        optional_labels=OPTIONAL,
        notes=["Forces are of a coarse grid."],
    )
    return open_dataset(path)


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "alcohols"
    counts = export_huggingface(dataset, folder)
    assert counts == (len(dataset.indices()), len(dataset) - len(dataset.indices()))
    return folder


def _same(row, expected):
    assert set(row) == set(expected) - {"split"}
    for name, value in row.items():
        if isinstance(value, str):
            assert value == expected[name]
        else:
            np.testing.assert_array_equal(np.array(value, np.float64), expected[name])


def test_files_hold_the_splits(exported, dataset):
    for name, split in SPLITS.items():
        table = pq.read_table(exported / "data" / f"{name}-00000-of-00001.parquet")
        rows = dataset.indices(split)
        assert len(table) == len(rows) > 0
        for name_ in ("pos", "energy", "fock_matrix"):
            unit = table.schema.field(name_).metadata[b"units"].decode()
            assert unit == dataset.units(name_)
        for place in (0, len(rows) - 1):
            _same(table.slice(place, 1).to_pylist()[0], dataset[int(rows[place])])


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_loads_it(exported, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(exported), cache_dir=str(tmp_path))
    assert {name: len(part) for name, part in loaded.items()} == {
        name: len(dataset.indices(split)) for name, split in SPLITS.items()
    }
    for name, split in SPLITS.items():
        _same(loaded[name][3], dataset[int(dataset.indices(split)[3])])


def test_large_splits_have_several_files(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("qmgen.dataset.huggingface._BLOCK_ROWS", 20)
    export_huggingface(dataset, tmp_path / "hub", file_rows=3)
    files = sorted((tmp_path / "hub" / "data").glob("train-*.parquet"))
    assert len(files) > 2
    assert files[-1].name == f"train-{len(files) - 1:05d}-of-{len(files):05d}.parquet"
    smiles = [name for file in files for name in pq.read_table(file)["smile"].to_pylist()]
    assert smiles == dataset.column("smile", dataset.indices("train")).tolist()


def test_card(exported, dataset):
    _, header, text = (exported / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["license"] == "unknown"
    assert values["size_categories"] == ["n<1K"]
    assert values["configs"][0]["data_files"] == [
        {"split": name, "path": f"data/{name}-*.parquet"} for name in SPLITS
    ]
    assert "labelled with b3lyp5/sto-3g" in text
    for name in set(dataset.columns) - {"split"}:
        assert f"| `{name}` | {COLUMNS[name].unit} |" in text
    for name, split in SPLITS.items():
        assert f"| {name} | {len(dataset.indices(split))} |" in text
    provenance = dataset.metadata.provenance
    assert provenance.source.sha256 in text
    assert provenance.config_hash in text
    assert "Forces are of a coarse grid." in text
    assert "mathiasen2023generating" in text


def test_card_of_imported_labels(dataset):
    origin = ImportedLabels(
        dataset="QM9", program="Gaussian 09", level_of_theory="B3LYP", reference="R", license="CC0"
    )
    provenance = dataset.metadata.provenance.model_copy(update={"imported": origin})
    assert level_of_theory(provenance) == "Gaussian 09, B3LYP"
    card = dataset_card(dataset, ("energy",), {"train": 5000, "test": 0}, "cc0-1.0")
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc0-1.0"
    assert header["size_categories"] == ["1K<n<10K"]
    assert [entry["split"] for entry in header["configs"][0]["data_files"]] == ["train"]
    assert "not stated" not in card


def test_what_fails_leaves_nothing(dataset, write, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(StoreError, match="exists"):
        export_huggingface(dataset, tmp_path / "mine")
    with pytest.raises(InputError, match="no conformer has converged"):
        export_huggingface(open_dataset(write([])), tmp_path / "hub")
    assert not list(tmp_path.glob("hub*"))
