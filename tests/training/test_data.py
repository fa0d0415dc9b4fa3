import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyscf.data import nist

from qmgen.dataset import open_dataset
from qmgen.errors import InputError
from qmgen.training import ConformerDataModule, ConformerDataset, ConformerStream, select_rows
from qmgen.training.data import StreamOrder
from qmgen.training.inputs import label_key, make_loader, properties
from qmgen.training.neighbors import NeighborList
from qmgen.training.order import ShuffledRows
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tests.training.synthetic import molecule


@pytest.fixture(scope="module")
def module(store, small_config):
    return ConformerDataModule(open_dataset(store), small_config)


@pytest.fixture(scope="module")
def conformers(module, store, small_config):
    return ConformerDataset(
        open_dataset(store),
        module.train,
        module.standardisation,
        NeighborList.of(small_config),
    )


def _same(one, two):
    assert len(one) == len(two) > 0
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_structures_are_those_of_the_store(conformers, store, small_config):
    dataset = open_dataset(store)
    for place in range(0, len(conformers), 7):
        item, row = conformers[place], dataset[int(conformers.rows[place])]
        nat = len(row["z"])
        assert item[properties.Z].tolist() == row["z"].tolist()
        assert item[properties.n_atoms].tolist() == [nat]
        expected = row["pos"] * ANGSTROM_PER_BOHR
        expected -= expected.mean(axis=0)
        # float32 rounding of a few Angstrom
        np.testing.assert_allclose(item[properties.R], expected, atol=1e-6)
        r = np.linalg.norm(expected[:, None] - expected, axis=-1) + 99 * np.eye(nat)
        pairs = set(zip(*np.nonzero(r < small_config.cutoff_angstrom), strict=True))
        found = zip(item[properties.idx_i].tolist(), item[properties.idx_j].tolist(), strict=True)
        assert set(found) == pairs
        assert not item[properties.offsets].any()


def test_targets_are_standardised_by_the_training_split(module, conformers, store):
    dataset = open_dataset(store)
    rows = dataset.indices("train")
    gap_ev = dataset.column("gap", rows) * EV_PER_HARTREE
    assert module.standardisation["gap"].mean == pytest.approx(gap_ev.mean())
    assert module.standardisation["gap"].scale == pytest.approx(gap_ev.std())
    labels = [conformers[i][label_key("gap")] for i in range(len(conformers))]
    target = torch.cat(labels).numpy()
    np.testing.assert_allclose(target, (gap_ev - gap_ev.mean()) / gap_ev.std(), atol=1e-6)


def test_no_molecule_is_in_two_splits(module, store):
    dataset = open_dataset(store)
    splits = [module.train, module.val, module.test]
    smiles = [set(dataset.column("smile", split.rows)) for split in splits]
    assert not smiles[0] & smiles[1]
    assert not smiles[0] & smiles[2]
    assert not smiles[1] & smiles[2]
    assert sum(map(len, splits)) == len(dataset)


def test_pickled_conformers_are_the_same(conformers):
    copy = pickle.loads(pickle.dumps(conformers))
    _same([conformers[i] for i in range(5)], [copy[i] for i in range(5)])
    with pytest.raises(IndexError):
        conformers[len(conformers)]


def test_workers_give_the_same_batches(conformers):
    alone, shared = (
        make_loader(conformers, 16, order=ShuffledRows(len(conformers), 4), num_workers=num_workers)
        for num_workers in (0, 2)
    )
    orders = []
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)
        shared.sampler.set_epoch(epoch)
        batches = list(alone)
        _same(batches, list(shared))
        orders.append(torch.cat([batch[properties.idx] for batch in batches]).tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == conformers.rows.tolist()


def _stream(module, store, small_config, order=None):
    return ConformerStream(
        open_dataset(store),
        module.train,
        module.standardisation,
        NeighborList.of(small_config),
        order,
        block_rows=15,
        window_blocks=4,
    )


def test_stream_gives_the_rows_of_memory(conformers, module, store, small_config):
    ordered = list(_stream(module, store, small_config))
    _same(ordered, [conformers[i] for i in range(len(conformers))])


def _rows(loader):
    return torch.cat([batch[properties.idx] for batch in loader]).tolist()


def test_stream_is_shuffled_and_shared_out(module, store, small_config):
    def rows(epoch, num_workers=0):
        stream = _stream(module, store, small_config, StreamOrder(1, epoch, 8))
        return _rows(make_loader(stream, 8, num_workers=num_workers))

    first, again, later, shared = rows(0), rows(0), rows(1), rows(0, num_workers=2)
    assert first == again
    assert first != later
    assert first != sorted(first)
    for order in (first, later, shared):
        assert sorted(order) == module.train.rows.tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_short_epochs_are_pieces_of_one_stream(module, store, small_config, num_workers):
    def batches(epoch, steps):
        stream = _stream(module, store, small_config, StreamOrder(1, epoch, 16, steps))
        return [batch[properties.idx] for batch in make_loader(stream, 16, num_workers=num_workers)]

    n = len(module.train)
    steps = 1 + 2 * n // 16
    whole = batches(0, steps)
    pieces = [batch for epoch in range(-(-steps // 7)) for batch in batches(epoch, 7)]
    assert len(pieces) >= steps == len(whole)
    for piece, expected in zip(pieces, whole, strict=False):
        assert torch.equal(piece, expected)
    rows = torch.cat(whole).tolist()
    assert all(len(batch) == 16 for batch in whole)
    if not num_workers:
        assert sorted(rows[:n]) == sorted(rows[n : 2 * n]) == module.train.rows.tolist()
        assert rows[:n] != rows[n : 2 * n]
    # Two passes and a bit, of which each worker may be a block ahead.
    counts = np.unique(rows, return_counts=True)[1]
    assert len(counts) == n
    assert counts.max() <= 4


def test_short_epochs_in_memory():
    whole = list(ShuffledRows(50, 3, 130))
    pieces = ShuffledRows(50, 3, 13)
    found = []
    for epoch in range(10):
        pieces.set_epoch(epoch)
        found += list(pieces)
    assert found == whole
    assert sorted(whole[:50]) == sorted(whole[50:100]) == list(range(50))
    assert whole[:50] != whole[50:100]


def test_memory_bound_decides(store, small_config):
    dataset = open_dataset(store)
    assert not ConformerDataModule(dataset, small_config).streamed
    config = small_config.model_copy(update={"in_memory_gib": 0.0})
    assert ConformerDataModule(dataset, config).streamed


def test_rows_without_a_label_are_left_out(write):
    records = [molecule(i) for i in range(12)]
    for record in records:
        record.conformers["converged"][0] = False
        record.conformers["gap"][1] = np.nan
    dataset = open_dataset(write(records))
    for split in ("train", "val", "test"):
        selection = select_rows(dataset, split, ["gap"])
        assert set(dataset.column("index", selection.rows)) == {2, 3}
        assert np.isfinite(selection.scalars["gap"]).all()
        assert selection.num_unlabelled == selection.num_molecules  # one that is not converged


def test_rows_need_every_label(write):
    records = [molecule(i, pairs=True) for i in range(12)]
    for record in records:
        record.conformers["forces"][0, -1, 2] = np.nan
        record.conformers["dipole"][1, 1] = np.inf
        record.conformers["gap"][2] = np.nan
    charged = replace(records[0], charge=1)
    dataset = open_dataset(write([charged, *records[1:]], optional_labels=("forces",)))
    targets = ("energy", "forces", "gap", "dipole")
    found = [select_rows(dataset, split, targets) for split in ("train", "val", "test")]
    rows = np.concatenate([selection.rows for selection in found])
    assert set(dataset.column("index", rows)) == {3}
    # A charged molecule's dipole depends on the origin.
    assert set(dataset.column("line", rows)) == set(range(2, 13))
    assert sum(selection.num_unlabelled for selection in found) == 4 * 12 - 11
    assert 1 in np.concatenate(
        [
            dataset.column("line", select_rows(dataset, split, ["gap"]).rows)
            for split in ("train", "val", "test")
        ]
    )


def test_vectors_are_those_of_the_store(force_store, small_config):
    dataset = open_dataset(force_store)
    targets = {"energy": 1.0, "forces": 1.0, "dipole": 1.0}
    module = ConformerDataModule(
        dataset, small_config.model_copy(update={"targets": targets, "train_molecules": 20})
    )
    conformers = module.train_dataloader().dataset
    force, dipole = (module.standardisation[target].scale for target in ("forces", "dipole"))
    items = [conformers[place] for place in range(len(conformers))]
    for place in range(0, len(conformers), 5):
        item, stored = items[place], dataset[int(conformers.rows[place])]
        # float32
        np.testing.assert_allclose(
            item[label_key("forces")] * force,
            stored["forces"] * EV_PER_HARTREE / ANGSTROM_PER_BOHR,
            rtol=1e-5,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            item[label_key("dipole")] * dipole,
            stored["dipole"][None] * nist.AU2DEBYE,
            rtol=1e-5,
            atol=1e-6,
        )
    for target in ("forces", "dipole"):
        together = torch.cat([item[label_key(target)] for item in items])
        assert float(together.square().mean()) == pytest.approx(1.0, rel=1e-4)
    assert module.train.num_molecules == 20


def test_useless_splits_are_named(write, small_config):
    dataset = open_dataset(write([molecule(i) for i in range(8)], (0.5, 0.5, 0.0)))
    with pytest.raises(InputError, match="the test split is of no use: it has no converged"):
        ConformerDataModule(dataset, small_config)
    records = [molecule(i) for i in range(8)]
    for record in records:
        record.conformers["lumo"][:] = np.nan
    dataset = open_dataset(write(records))
    with pytest.raises(InputError, match="none of its 24 converged conformers has a finite 'lumo'"):
        ConformerDataModule(dataset, small_config.model_copy(update={"targets": {"lumo": 1.0}}))
    with pytest.raises(InputError, match="the store has no forces"):
        select_rows(dataset, "train", ["energy", "forces"])
    records = [molecule(i) for i in range(8)]
    for record in records:
        record.z[:] = 100
    with pytest.raises(InputError, match="ends at atomic number 99"):
        select_rows(open_dataset(write(records)), "train", ["gap"])
