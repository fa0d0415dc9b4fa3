"""Conformers and their integrals, made while a network trains."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import torch

from qmgen.dft.compilation_cache import use_compilation_cache
from qmgen.dft.process_memory import forget_programs
from qmgen.errors import ConformerError
from qmgen.molecules import Molecule, embed_conformers
from qmgen.training.hamiltonian.config import HamiltonianConfig
from qmgen.training.hamiltonian.inputs import Conformer, batch_of, conformers_of
from qmgen.training.hamiltonian.orbital_layout import OrbitalSlots
from qmgen.training.neighbors import NeighborList
from qmgen.units import BOHR_PER_ANGSTROM


class ConformerProblems(torch.utils.data.IterableDataset):
    """Conformers with their integrals, epoch after epoch.

    The epoch's number and the configuration's seed determine what comes and in which order, so
    that a training that is resumed meets the same conformers. Each worker process takes its own
    molecules.

    Parameters
    ----------
    molecules : tuple of Molecule
        What to embed.
    config : HamiltonianConfig
        Conformers, level of theory, visits.
    slots : OrbitalSlots
        Of the network.
    training : bool
        Whether conformers come several times, shuffled and, if so configured, new each epoch.

    Attributes
    ----------
    epoch : Int64[]
        Number of the epoch that is asked for next; worker processes share it.
    """

    def __init__(
        self,
        molecules: tuple[Molecule, ...],
        config: HamiltonianConfig,
        slots: OrbitalSlots,
        *,
        training: bool,
    ) -> None:
        self._molecules = molecules
        self._config = config
        self._conformer_config = config.conformers if training else config.held_out
        self._slots = slots
        self._training = training
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._fresh = training and config.fresh_conformers
        self._kept: dict[int, list[Conformer]] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Conformer]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch = int(self.epoch)
        generator = np.random.default_rng([self._config.seed, epoch, first])
        order = np.arange(len(self._molecules))
        if self._training:
            # The same order in each worker, of which each takes its part.
            order = np.random.default_rng([self._config.seed, epoch]).permutation(order)
        mine = order[first::step].tolist()
        per_window = max(1, self._config.window // self._conformer_config.per_molecule)
        for start in range(0, len(mine), per_window):
            forget_programs()
            members = [
                conformer
                for number in mine[start : start + per_window]
                for conformer in self._conformers(number, epoch)
            ]
            if not self._training:
                yield from members
                continue
            for _ in range(self._config.visits):
                for place in generator.permutation(len(members)):
                    yield members[place]
            # Room for the next ones.
            members.clear()

    def _conformers(self, number: int, epoch: int) -> list[Conformer]:
        if number in self._kept:
            return self._kept[number]
        molecule, config = self._molecules[number], self._config
        # Seeds of different epochs, runs and molecules have nothing in common.
        seed = config.seed + 2**32 * (1 + epoch) if self._fresh else config.seed
        try:
            positions_angstrom = embed_conformers(molecule, self._conformer_config, seed)
        except ConformerError:
            # It has conformers with the seed that it was checked with, if not with this one.
            positions_angstrom = embed_conformers(molecule, self._conformer_config, config.seed)
        conformers = conformers_of(
            molecule.atomic_numbers,
            positions_angstrom * BOHR_PER_ANGSTROM,
            config.dft,
            self._slots,
            NeighborList(config.cutoff_angstrom),
            molecule.charge,
            labelled=self._training and config.loss == "fock",
        )
        size = sum(_bytes(conformer) for conformer in conformers)
        if not self._fresh and self._bytes + size <= config.cache_gib * 2**30:
            self._kept[number] = conformers
            self._bytes += size
        return conformers


def _bytes(conformer: Conformer) -> int:
    leaves = jax.tree.leaves(conformer.problem)
    return sum(leaf.nbytes for leaf in leaves) + conformer.given.nbytes


class ProblemLoader(torch.utils.data.DataLoader):
    """Loads `ConformerBatch`; its processes compute the next batches ahead of time.

    Parameters
    ----------
    problems : ConformerProblems
        What to load.
    batch_size : int
        Conformers a batch; the last may have fewer.
    slots : OrbitalSlots
        Of the network.
    epoch : callable
        Gives the number of the epoch, from 0.
    num_workers : int
        Processes; 0 for this one.
    """

    def __init__(
        self,
        problems: ConformerProblems,
        batch_size: int,
        slots: OrbitalSlots,
        epoch: Callable[[], int],
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            problems,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=partial(batch_of, slots=slots),
            worker_init_fn=_prepare_worker,
            # JAX has threads, which a forked process would lack.
            multiprocessing_context="spawn" if num_workers else None,
            persistent_workers=num_workers > 0,
        )
        self._problems = problems
        self._current_epoch = epoch

    def __iter__(self) -> Any:
        # Lightning may make iterators that it doesn't use, so they can't be counted.
        self._problems.epoch.fill_(self._current_epoch())
        return super().__iter__()


def _prepare_worker(_: int) -> None:
    use_compilation_cache()
