"""Conformers and their integrals, made while a network trains."""

from collections.abc import Iterator
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
    first_epoch : int
        Number of the first epoch that is asked for, from 0.
    """

    def __init__(
        self,
        molecules: tuple[Molecule, ...],
        config: HamiltonianConfig,
        slots: OrbitalSlots,
        *,
        training: bool,
        first_epoch: int = 0,
    ) -> None:
        self._molecules = molecules
        self._config = config
        self._slots = slots
        self._training = training
        self._epoch = first_epoch
        self._fresh = training and config.fresh_conformers
        self._kept: dict[int, list[Conformer]] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Conformer]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, self._epoch = self._epoch, self._epoch + 1
        generator = np.random.default_rng([self._config.seed, epoch, first])
        order = np.arange(len(self._molecules))
        if self._training:
            # The same order in each worker, of which each takes its part.
            order = np.random.default_rng([self._config.seed, epoch]).permutation(order)
        mine = order[first::step].tolist()
        per_window = max(1, self._config.window // self._config.conformers.per_molecule)
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

    def _conformers(self, number: int, epoch: int) -> list[Conformer]:
        if number in self._kept:
            return self._kept[number]
        molecule, config = self._molecules[number], self._config
        # Seeds of different epochs, runs and molecules have nothing in common.
        seed = config.seed + 2**32 * (1 + epoch) if self._fresh else config.seed
        try:
            positions_angstrom = embed_conformers(molecule, config.conformers, seed)
        except ConformerError:
            # It has conformers with the seed that it was checked with, if not with this one.
            positions_angstrom = embed_conformers(molecule, config.conformers, config.seed)
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


def problem_loader(
    problems: ConformerProblems, config: HamiltonianConfig, slots: OrbitalSlots
) -> torch.utils.data.DataLoader[Any]:
    """Make a loader of `ConformerBatch`; its processes compute the next batches ahead of time."""
    workers: dict[str, Any] = {}
    if config.num_workers:
        # JAX has threads, which a forked process would lack.
        workers = {"multiprocessing_context": "spawn", "persistent_workers": True}
    return torch.utils.data.DataLoader(
        problems,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        collate_fn=partial(batch_of, slots=slots),
        worker_init_fn=_prepare_worker,
        **workers,
    )


def _prepare_worker(_: int) -> None:
    use_compilation_cache()
