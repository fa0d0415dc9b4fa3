import pickle
import threading

import numpy as np
import pytest

from qmgen.dataset import Dataset, batch_loader, open_dataset
from qmgen.dataset.prefetch import prefetched
from qmgen.dataset.shuffling import WindowOrder
from qmgen.errors import InputError, StoreError

# Many windows of a store of about a hundred rows.
SMALL = {"block_rows": 5, "window_blocks": 4}


@pytest.fixture(scope="module")
def dataset(shared_store):
    return open_dataset(shared_store)


def _rows(batches):
    return [batch.rows.tolist() for batch in batches]


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "qmgen-prefetch"]


def _order(sizes, skip=0, **options):
    """Rows in the order of a `WindowOrder`, without a store."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = [np.empty(0, np.int64)]
    for window in WindowOrder(**options).windows(sizes, skip):
        assert len(window.pieces) <= options["window_blocks"]
        pieces = [np.arange(starts[block] + i, starts[block] + j) for block, i, j in window.pieces]
        rows.append(np.concatenate(pieces)[window.places])
    return np.concatenate(rows)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("shards", [1, 2, 7, 500])
def test_every_row_is_in_one_shard(seed, shards):
    sizes = np.random.default_rng(0).integers(0, 9, 100)
    for epoch in (0, 1):
        options = {"window_blocks": 8, "seed": seed, "epoch": epoch, "shards": shards}
        parts = [_order(sizes, shard=shard, **options) for shard in range(shards)]
        rows = np.concatenate(parts)
        assert sorted(rows) == list(range(sizes.sum()))
        assert (np.diff(rows) == 1).all() == (seed is None)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for skip in (1, 40, 400):
            rest = _order(sizes, skip, shard=shards - 1, **options)
            np.testing.assert_array_equal(rest, parts[-1][skip:])


def test_order_is_a_function_of_seed_and_epoch():
    sizes = np.full(50, 10)

    def order(seed, epoch):
        return _order(sizes, window_blocks=8, seed=seed, epoch=epoch).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({str(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_neighbours_are_of_one_block_as_seldom_as_the_window_allows():
    sizes = np.full(160, 100)
    rows = _order(sizes, window_blocks=16, seed=0)
    share = (rows[1:] // 100 == rows[:-1] // 100).mean()
    # Two of the 1600 rows of a window; 16,000 pairs, four standard errors.
    assert share == pytest.approx(99 / 1599, abs=4 * np.sqrt(0.062 * 0.938 / 16_000))


def test_shards_of_a_store(dataset):
    loader = batch_loader(dataset, 4, columns=(), seed=3, **SMALL)
    found = [_rows(loader.sharded(shard, 3).batches()) for shard in range(3)]
    rows = [row for batches in found for batch in batches for row in batch]
    assert sorted(rows) == dataset.indices().tolist()
    numbers = [len(batches) for batches in found]
    assert numbers == [len(loader.sharded(shard, 3)) for shard in range(3)]
    assert numbers == sorted(numbers, reverse=True)
    assert all(len(batch) == 4 for batches in found for batch in batches[:-1])


def test_equal_batches_are_full_and_leave_out_others_each_epoch(dataset):
    loader = batch_loader(dataset, 4, columns=(), seed=0, equal_batches=True, **SMALL)
    number = len(dataset.indices())
    left_out = []
    for epoch in range(2):
        found = [_rows(loader.sharded(shard, 3).batches(epoch)) for shard in range(3)]
        assert [len(batches) for batches in found] == [number // 3 // 4] * 3
        assert all(len(batch) == 4 for batches in found for batch in batches)
        rows = {row for batches in found for batch in batches for row in batch}
        left_out.append(set(dataset.indices().tolist()) - rows)
        assert len(left_out[-1]) == number - 12 * (number // 12)
        assert len(left_out[-1]) < 3 * (4 + 1)
    assert left_out[0] != left_out[1]
    with pytest.raises(InputError, match="no full batch of 4 for each of 50 processes"):
        loader.sharded(0, 50)


@pytest.mark.parametrize("size", [6, 30])
def test_resumed_stream_is_the_same_and_reads_nothing_before(dataset, size, monkeypatch):
    loader = batch_loader(dataset, size, columns=("energy",), seed=4, prefetch=0, **SMALL)
    loader = loader.sharded(1, 2)
    read = []

    def batch(self, rows, columns=None, original=Dataset.batch):
        read.append(len(rows))
        return original(self, rows, columns)

    monkeypatch.setattr(Dataset, "batch", batch)
    whole = list(loader.batches(epoch=5))
    all_reads = sum(read)
    assert all_reads == sum(map(len, whole))
    for start in (1, len(loader) - 1, len(loader)):
        read.clear()
        rest = list(loader.batches(epoch=5, start_batch=start))
        assert _rows(rest) == _rows(whole[start:])
        for one, two in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(one["energy"], two["energy"])
        # Its own window may have begun with rows that were used.
        left = max(0, all_reads - start * size)
        assert left <= sum(read) < left + 5 * 4


def test_batches_have_the_rows_of_the_reader(write, make_records):
    optional = ("forces", "fock_matrix")
    records = make_records(8, optional_labels=optional)
    dataset = open_dataset(write(records, optional_labels=optional))
    number = 0
    for batch in batch_loader(dataset, 7, seed=0, converged_only=False, **SMALL).batches():
        expected = dataset.batch(batch.rows)
        assert batch.columns.keys() == expected.columns.keys() == set(dataset.columns)
        np.testing.assert_array_equal(batch.atom_offset, expected.atom_offset)
        np.testing.assert_array_equal(batch.orbital_offset, expected.orbital_offset)
        for name, values in expected.columns.items():
            np.testing.assert_array_equal(batch[name], values)
        number += len(batch)
    assert number == len(dataset) > 10


def test_selection(write, make_records):
    records = make_records(12, nconf=3, optional_labels=("forces",))
    for record in records:
        record.conformers["converged"][:] = [True, True, False]
    records[4].conformers["forces"][0, -1, 2] = np.inf
    records[5].conformers["dipole"][1, 0] = np.nan
    dataset = open_dataset(write(records, optional_labels=("forces",)))
    labels = ("gap", "forces", "dipole", "orbital_energies")

    def rows(**options):
        loader = batch_loader(dataset, 10, columns=(), **SMALL, **options)
        return [row for batch in loader.batches() for row in batch.rows.tolist()]

    assert rows(converged_only=False) == list(range(36))
    assert rows() == [row for row in range(36) if row % 3 < 2]
    assert rows(labels=labels) == [row for row in rows() if row not in (4 * 3, 5 * 3 + 1)]
    for split in ("train", "val", "test"):
        assert rows(split=split) == dataset.indices(split).tolist()


def test_closing_early_leaves_no_thread(dataset):
    batches = batch_loader(dataset, 2, columns=("pos",), seed=0, **SMALL).batches()
    assert not _threads()
    next(batches)
    assert len(_threads()) == 1
    batches.close()
    assert not _threads()
    for _ in batch_loader(dataset, 2, columns=("pos",), seed=0, **SMALL).batches():
        break
    assert not _threads()


def test_prefetching_is_bounded_and_passes_errors_on():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            if number == 30:
                raise StoreError("chunk is damaged")
            yield number

    found = []

    def use():
        for number in prefetched(items(), 3):
            found.append(number)
            # Three wait, one is waiting to be put there.
            assert len(made) <= len(found) + 4

    with pytest.raises(StoreError, match="chunk is damaged"):
        use()
    assert found == list(range(30))
    assert not _threads()


def test_loader_travels_to_workers(dataset):
    loader = batch_loader(dataset, 8, columns=("energy",), seed=0, **SMALL).sharded(1, 2)
    copy = pickle.loads(pickle.dumps(loader))
    assert _rows(copy.batches(1)) == _rows(loader.batches(1))


def test_mistakes_are_named(dataset, write):
    with pytest.raises(InputError, match="no column 'colour'"):
        batch_loader(dataset, 8, columns=("colour",))
    with pytest.raises(InputError, match=r"no column 'forces'; .* only if their labels ask"):
        batch_loader(dataset, 8, labels=("forces",))
    with pytest.raises(InputError, match="smile is text"):
        batch_loader(dataset, 8, labels=("smile",))
    with pytest.raises(InputError, match="no split 'valid'"):
        batch_loader(dataset, 8, split="valid")
    with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
        batch_loader(dataset, 0)
    with pytest.raises(InputError, match="no shard 2 of 2"):
        batch_loader(dataset, 8).sharded(2, 2)
    with pytest.raises(InputError, match="count from 0"):
        batch_loader(dataset, 8).batches(-1)
    with pytest.raises(InputError, match="no row is left"):
        batch_loader(open_dataset(write([])), 8)
