import pickle

import numpy as np
import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.errors import InputError
from qmgen.training import ConformerDataModule, ConformerDataset, ConformerStream, select_rows
from qmgen.training.inputs import TARGET, make_loader, properties
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tests.training.synthetic import molecule


@pytest.fixture(scope="module")
def module(store, small_config):
    return ConformerDataModule(open_dataset(store), small_config)


@pytest.fixture(scope="module")
def conformers(module, store, small_config):
    return ConformerDataset(
        open_dataset(store),
        module.train.rows,
        module.train.target_ev,
        module.standardisation,
        small_config.cutoff_angstrom,
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
    assert module.standardisation.mean_ev == pytest.approx(gap_ev.mean())
    assert module.standardisation.scale_ev == pytest.approx(gap_ev.std())
    target = torch.cat([conformers[i][TARGET] for i in range(len(conformers))]).numpy()
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
    alone = make_loader(conformers, 16, shuffle_seed=4)
    shared = make_loader(conformers, 16, shuffle_seed=4, num_workers=2)
    orders = []
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)
        shared.sampler.set_epoch(epoch)
        batches = list(alone)
        _same(batches, list(shared))
        orders.append(torch.cat([batch[properties.idx] for batch in batches]).tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == conformers.rows.tolist()


def _stream(module, store, small_config, seed):
    return ConformerStream(
        open_dataset(store),
        module.train,
        module.standardisation,
        small_config.cutoff_angstrom,
        seed,
        block_rows=30,
    )


def test_stream_gives_the_rows_of_memory(conformers, module, store, small_config):
    ordered = list(_stream(module, store, small_config, None))
    _same(ordered, [conformers[i] for i in range(len(conformers))])


def test_stream_is_shuffled_and_shared_out(module, store, small_config):
    def rows(loader):
        return torch.cat([batch[properties.idx] for batch in loader]).tolist()

    first = rows(make_loader(_stream(module, store, small_config, (1, 0)), 8))
    again = rows(make_loader(_stream(module, store, small_config, (1, 0)), 8))
    later = rows(make_loader(_stream(module, store, small_config, (1, 1)), 8))
    shared = rows(make_loader(_stream(module, store, small_config, (1, 0)), 8, num_workers=2))
    assert first == again
    assert first != later
    assert first != sorted(first)
    for order in (first, later, shared):
        assert sorted(order) == module.train.rows.tolist()


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
        selection = select_rows(dataset, split, "gap")
        assert set(dataset.column("index", selection.rows)) == {2, 3}
        assert np.isfinite(selection.target_ev).all()


def test_useless_splits_are_named(write, small_config):
    dataset = open_dataset(write([molecule(i) for i in range(8)], (0.5, 0.5, 0.0)))
    with pytest.raises(InputError, match="the test split is of no use: it has no converged"):
        ConformerDataModule(dataset, small_config)
    records = [molecule(i) for i in range(8)]
    for record in records:
        record.conformers["lumo"][:] = np.nan
    dataset = open_dataset(write(records))
    with pytest.raises(InputError, match="'lumo' is NaN for all its"):
        ConformerDataModule(dataset, small_config.model_copy(update={"target": "lumo"}))
    records = [molecule(i) for i in range(8)]
    for record in records:
        record.z[:] = 100
    with pytest.raises(InputError, match="ends at atomic number 99"):
        select_rows(open_dataset(write(records)), "train", "gap")
