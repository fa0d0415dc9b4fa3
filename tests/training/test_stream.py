import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from qmgen.dataset import batch_loader, open_dataset
from qmgen.errors import MissingExtraError
from qmgen.training import BatchStream, pyg_batch, schnetpack_batch, tensor_batch
from qmgen.training.inputs import collate, structure_inputs
from qmgen.training.neighbors import NeighborList
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

COLUMNS = ("z", "pos", "energy", "forces", "dipole", "charge")
SMALL = {"block_rows": 10, "window_blocks": 3}


@pytest.fixture(scope="module")
def dataset(force_store):
    return open_dataset(force_store)


@pytest.fixture(scope="module")
def batch(dataset):
    return next(batch_loader(dataset, 12, columns=(*COLUMNS, "smile"), seed=0).batches())


def _rows(stream, num_workers=0):
    return [batch["row"].tolist() for batch in DataLoader(stream, None, num_workers=num_workers)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_share_out_the_rows(dataset, num_workers):
    loader = batch_loader(dataset, 8, columns=("energy",), seed=2, **SMALL)
    found = []
    for rank in range(2):
        stream = BatchStream(loader, rank=rank, ranks=2)
        stream.set_epoch(1)
        batches = _rows(stream, num_workers)
        found += batches
        # Of its batches 3 are gone; then an odd number of them, so that workers change places.
        stream.set_epoch(1, start_batch=3)
        assert _rows(stream, num_workers) == batches[3:]
    assert sorted(row for batch in found for row in batch) == dataset.indices().tolist()


def test_ranks_of_equal_batches(dataset):
    loader = batch_loader(dataset, 8, columns=(), seed=2, equal_batches=True, **SMALL)
    numbers = [len(_rows(BatchStream(loader, rank=rank, ranks=3))) for rank in range(3)]
    assert numbers == [len(dataset.indices()) // 3 // 8] * 3


def test_tensors_are_those_of_the_store(dataset, batch):
    tensors = tensor_batch(batch)
    start = 0
    for place, row in enumerate(batch.rows.tolist()):
        stored = dataset.batch([row], COLUMNS).row(0)
        atoms = slice(start, start + len(stored["z"]))
        start = atoms.stop
        assert tensors["z"][atoms].tolist() == stored["z"].tolist()
        for name in ("pos", "forces"):
            assert torch.equal(tensors[name][atoms], torch.from_numpy(stored[name]))
        assert tensors["energy"][place] == stored["energy"]
        assert (tensors["conformer_of_atom"][atoms] == place).all()
    assert tensors["z"].dtype == torch.int64
    assert len(tensors["conformer_of_atom"]) == start
    assert tensors["smile"] == batch["smile"].tolist()


def test_graphs_are_what_pytorch_geometric_makes(batch):
    data = pytest.importorskip("torch_geometric.data")
    graphs = []
    for place in range(len(batch)):
        row = batch.row(place)
        tensors = {name: torch.from_numpy(np.asarray(row[name])) for name in COLUMNS}
        tensors["dipole"] = tensors["dipole"][None]
        tensors["z"] = tensors["z"].long()
        graphs.append(data.Data(**tensors, row=int(batch.rows[place])))
    expected = data.Batch.from_data_list(graphs)
    found = pyg_batch(batch)
    assert found.num_graphs == len(batch)
    assert found.num_nodes == len(batch["z"])
    for name in (*COLUMNS, "row", "batch", "ptr"):
        assert torch.equal(found[name], expected[name]), name


def test_message_without_pytorch_geometric(batch, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qmgen\[pyg\]'"):
        pyg_batch(batch)


@pytest.mark.parametrize("max_neighbors", [None, 2])
def test_inputs_are_those_that_schnetpack_collates(batch, max_neighbors):
    neighbor_list = NeighborList(2.5, max_neighbors)
    expected = collate(
        [
            structure_inputs(
                batch.row(place)["z"],
                batch.row(place)["pos"] * ANGSTROM_PER_BOHR,
                neighbor_list,
                int(row),
            )
            for place, row in enumerate(batch.rows)
        ]
    )
    convert = partial(
        schnetpack_batch, neighbor_list=neighbor_list, targets=("energy", "forces", "dipole")
    )
    found = convert(batch)
    np.testing.assert_array_equal(found.pop("energy"), batch["energy"] * EV_PER_HARTREE)
    force = EV_PER_HARTREE / ANGSTROM_PER_BOHR
    np.testing.assert_allclose(found.pop("forces"), batch["forces"] * force, rtol=1e-15)
    assert found.pop("dipole").shape == (len(batch), 3)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].dtype == values.dtype, key
        # Sums of positions are added up in another order.
        torch.testing.assert_close(found[key], values, rtol=0, atol=1e-6)
