"""Feeds the conformers of a store to a network."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float32, UInt8
from schnetpack.data import AtomsLoader

from qmgen.dataset import Dataset
from qmgen.dataset.shuffling import Piece, Window, WindowOrder, shard_bounds
from qmgen.training.config import TrainConfig
from qmgen.training.inputs import Inputs, label_key, make_loader, structure_inputs
from qmgen.training.neighbors import NeighborList
from qmgen.training.order import ShuffledRows, batches_of_worker
from qmgen.training.selection import Selection, blocks_of, select_rows
from qmgen.training.splits import split_codes
from qmgen.training.standardise import Standardisation, fit_standardisation
from qmgen.training.subset import training_subset
from qmgen.training.targets import SCALARS, TARGETS, Target
from qmgen.units import ANGSTROM_PER_BOHR

_BYTES_PER_ATOM = 13  # three float32 and one uint8
_BYTES_PER_FORCE = 12
_BYTES_PER_ROW = 36  # offset, row number, and the labels of a few targets
_SAMPLED_ROWS = 256


class ConformerDataset(torch.utils.data.Dataset):
    """Conformers held in memory, 13 bytes an atom; a map from place to one structure.

    The store is read once, in blocks, when this is made. It can be pickled for worker processes.

    Parameters
    ----------
    dataset : Dataset
        Store.
    selection : Selection
        Rows of the store to hold.
    standardisation : Standardisation
        Brings its targets to unit spread.
    neighbor_list : NeighborList
        Finds the neighbours of atoms.
    """

    def __init__(
        self,
        dataset: Dataset,
        selection: Selection,
        standardisation: Standardisation,
        neighbor_list: NeighborList,
    ) -> None:
        targets = tuple(standardisation.scalings)
        vectors = [target for target in targets if target not in SCALARS]
        z: list[UInt8[np.ndarray, " atoms"]] = []
        positions: list[Float32[np.ndarray, "atoms 3"]] = []
        n_atoms = [np.zeros(1, dtype=np.int64)]
        labels: dict[Target, list[np.ndarray]] = {target: [] for target in targets}
        for part, block in blocks_of(dataset, selection.rows, ("z", "pos", *vectors)):
            z.append(block["z"])
            # Centred on the first atom before rounding, for molecules far from the origin.
            first = np.repeat(block["pos"][block.atom_offset[:-1]], block.n_atoms, axis=0)
            positions.append(((block["pos"] - first) * ANGSTROM_PER_BOHR).astype(np.float32))
            n_atoms.append(block.n_atoms)
            for target, scaling in standardisation.scalings.items():
                if target in SCALARS:
                    offset = scaling.offset(block["z"], block.atom_offset)
                    values = selection.scalars[target][part] - offset
                else:
                    values = block[target] * TARGETS[target].factor
                labels[target].append((values / scaling.scale).astype(np.float32))
        self.rows = selection.rows
        self._z = np.concatenate(z)
        self._positions_angstrom = np.concatenate(positions)
        self._offset = np.cumsum(np.concatenate(n_atoms))
        self._labels = {target: np.concatenate(parts) for target, parts in labels.items()}
        self._neighbor_list = neighbor_list

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Inputs:
        """Give a structure: see `structure_inputs`; ``idx`` is its row in the store.

        The standardised labels are under their `label_key`: (1,) float32 for a scalar, (1, 3) for
        the dipole, (nat, 3) for forces.

        Raises
        ------
        IndexError
            There is no such place.
        """
        place = range(len(self))[place]
        atoms = slice(self._offset[place], self._offset[place + 1])
        inputs = structure_inputs(
            self._z[atoms],
            self._positions_angstrom[atoms],
            self._neighbor_list,
            int(self.rows[place]),
        )
        for target, values in self._labels.items():
            part = atoms if target == "forces" else slice(place, place + 1)
            inputs[label_key(target)] = torch.from_numpy(values[part])
        return inputs


@dataclass(frozen=True)
class StreamOrder:
    """Which part of a shuffled stream is an epoch.

    Attributes
    ----------
    seed : int
        Seed.
    epoch : int
        Epoch, from 0.
    batch_size : int
        Rows a batch.
    steps : int or None
        Batches an epoch; a whole pass, the last batch of each process being smaller, if None.
    """

    seed: int
    epoch: int
    batch_size: int
    steps: int | None = None


class ConformerStream(torch.utils.data.IterableDataset):
    """Conformers read from the store window by window, for stores that don't fit in memory.

    Each worker process takes its own part of the rows (see `qmgen.dataset.shuffling`). One window
    of `window_blocks` blocks is in memory at a time a process, beside the selection.

    Parameters
    ----------
    dataset : Dataset
        Store.
    selection : Selection
        Rows and labels.
    standardisation, neighbor_list
        As for `ConformerDataset`.
    order : StreamOrder, optional
        Shuffles; one pass in stored order by default.
    block_rows : int
        Neighbouring rows that are read together.
    window_blocks : int
        Blocks that are mixed.
    """

    def __init__(
        self,
        dataset: Dataset,
        selection: Selection,
        standardisation: Standardisation,
        neighbor_list: NeighborList,
        order: StreamOrder | None = None,
        block_rows: int = 2048,
        window_blocks: int = 8,
    ) -> None:
        self._dataset = dataset
        self._selection = selection
        self._standardisation = standardisation
        self._neighbor_list = neighbor_list
        self._order = order
        self._block_rows = block_rows
        self._window_blocks = window_blocks

    def __iter__(self) -> Iterator[Inputs]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for window in self._windows(number, workers):
            structures: torch.utils.data.ConcatDataset[Inputs] = torch.utils.data.ConcatDataset(
                [
                    ConformerDataset(
                        self._dataset,
                        self._selection.take(self._rows(piece)),
                        self._standardisation,
                        self._neighbor_list,
                    )
                    for piece in window.pieces
                ]
            )
            for place in window.places.tolist():
                yield structures[place]

    def _windows(self, worker: int, workers: int) -> Iterator[Window]:
        """Give what a process reads, and the places to take from it."""
        order = self._order
        starts = np.arange(0, len(self._selection), self._block_rows)
        sizes = np.minimum(self._block_rows, len(self._selection) - starts)
        seed = None if order is None else order.seed

        def windows(epoch: int, shard: int, skip: int = 0) -> Iterator[Window]:
            return WindowOrder(self._window_blocks, seed, epoch, shard, workers).windows(
                sizes, skip
            )

        if order is None or order.steps is None:
            yield from windows(0 if order is None else order.epoch, worker)
            return
        workers = min(workers, len(self._selection))  # further ones have no row to give
        if worker >= workers:
            return
        process, before, now = batches_of_worker(worker, workers, order.epoch, order.steps)
        left = now * order.batch_size
        rows = shard_bounds(len(self._selection), process, workers)[1]
        # What earlier epochs have used up is not read.
        number, skip = divmod(before * order.batch_size, rows)
        while left:
            for window in windows(number, process, skip):
                places = window.places[:left]
                yield replace(window, places=places)
                left -= len(places)
                if not left:
                    return
            number, skip = number + 1, 0

    def _rows(self, piece: Piece) -> slice:
        block, first, stop = piece
        return slice(block * self._block_rows + first, block * self._block_rows + stop)


class ConformerDataModule(pl.LightningDataModule):
    """The splits of a store, as the store drew them, by molecule, or by scaffold.

    Parameters
    ----------
    dataset : Dataset
        Store.
    config : TrainConfig
        Targets, split, size of the training set, batches, seed and memory.

    Attributes
    ----------
    train, val, test : Selection
        Rows of the splits, and labels; `train` has the part that is learnt from.
    standardisation : Standardisation
        Fitted on `train`.
    streamed : bool
        Whether geometries are read anew each epoch.

    Raises
    ------
    InputError
        A split holds no usable row or fewer than are asked for, the store lacks a label, or an
        element is too heavy.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig) -> None:
        super().__init__()
        self._dataset = dataset
        self._config = config
        self._neighbor_list = NeighborList.of(config)
        targets = tuple(config.targets)
        codes = split_codes(dataset, config.split)
        self.train = training_subset(
            dataset,
            select_rows(dataset, "train", targets, codes=codes),
            conformers=config.train_size,
            molecules=config.train_molecules,
            seed=config.seed,
        )
        self.val = select_rows(dataset, "val", targets, self.train.elements, codes)
        self.test = select_rows(dataset, "test", targets, self.train.elements, codes)
        self.standardisation = fit_standardisation(dataset, self.train, targets)
        n_rows = len(self.train) + len(self.val) + len(self.test)
        needed = estimated_bytes(dataset, n_rows, forces="forces" in targets)
        self.streamed = needed > config.in_memory_gib * 2**30
        self._loaded: dict[str, ConformerDataset] = {}

    def train_dataloader(self) -> AtomsLoader:
        """Batches of an epoch, in an order of its own."""
        return self._loader("train", self.train, shuffle=True)

    def val_dataloader(self) -> AtomsLoader:
        """Batches of the validation split, in stored order."""
        return self._loader("val", self.val, shuffle=False)

    def test_dataloader(self) -> AtomsLoader:
        """Batches of the test split, in stored order."""
        return self._loader("test", self.test, shuffle=False)

    def _loader(self, name: str, selection: Selection, *, shuffle: bool) -> AtomsLoader:
        config = self._config
        if self.streamed:
            epoch = self.trainer.current_epoch if self.trainer else 0
            order = StreamOrder(config.seed, epoch, config.batch_size, config.epoch_steps)
            stream = ConformerStream(
                self._dataset,
                selection,
                self.standardisation,
                self._neighbor_list,
                order if shuffle else None,
            )
            return make_loader(stream, config.batch_size, num_workers=config.num_workers)
        if name not in self._loaded:
            self._loaded[name] = ConformerDataset(
                self._dataset, selection, self.standardisation, self._neighbor_list
            )
        rows = None if config.epoch_steps is None else config.epoch_steps * config.batch_size
        return make_loader(
            self._loaded[name],
            config.batch_size,
            num_workers=config.num_workers,
            order=ShuffledRows(len(selection), config.seed, rows) if shuffle else None,
        )


def estimated_bytes(dataset: Dataset, n_rows: int, *, forces: bool = False) -> int:
    """Estimate the memory that so many rows take, from the sizes of a few hundred of them."""
    sample = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED_ROWS).astype(np.int64))
    mean_atoms = float(dataset.batch(sample, ()).n_atoms.mean())
    per_atom = _BYTES_PER_ATOM + _BYTES_PER_FORCE * forces
    return round(n_rows * (mean_atoms * per_atom + _BYTES_PER_ROW))
