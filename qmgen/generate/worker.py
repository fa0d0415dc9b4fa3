"""Labels one batch: molecules in, records out. Knows nothing of Dask or files."""

import faulthandler
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from pyscf import lib

from qmgen.dataset import Failure, MoleculeRecord
from qmgen.dataset.rounding import rounded
from qmgen.dft.compilation_cache import use_compilation_cache
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.dft.process_memory import forget_programs, keep_freed_memory
from qmgen.errors import ConformerError, UnsupportedMoleculeError
from qmgen.generate.config import RunConfig
from qmgen.generate.dft_labels import label_by_dft
from qmgen.generate.force_field_labels import label_by_mmff94
from qmgen.generate.plan import Batch, Slice
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers
from qmgen.units import BOHR_PER_ANGSTROM


@dataclass(frozen=True)
class LabelledSlice:
    """Outcome for one slice of a molecule; without record if nothing was labelled."""

    number: int
    record: MoleculeRecord | None
    failures: tuple[Failure, ...]


def prepare_process(threads: int) -> None:
    """Let this process compute on a number of cores, and share compiled programs with others.

    XLA reads its settings when its first program is compiled, so later calls change libcint only.
    """
    if threads == 1:
        single = "--xla_cpu_multi_thread_eigen=false"
        flags = os.environ.get("XLA_FLAGS", "")
        if single not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {single}".strip()
    # What XLA takes the number of cores from. Its threads would otherwise be as many as the machine
    # has cores, and those without work look for it on cores that other workers compute on: with
    # two workers on two cores a third of the time.
    os.environ["NPROC"] = str(threads)
    lib.num_threads(threads)
    keep_freed_memory()
    use_compilation_cache()


def label_batch(
    batch: Batch, config: RunConfig, threads: int, guess: OrbitalGuess | None = None
) -> list[LabelledSlice]:
    """Embed and label every slice of a batch.

    A molecule that can't be embedded or labelled becomes a `Failure`; the others go on. Beyond the
    configuration's time limit this process ends, wherever it is.
    """
    prepare_process(threads)
    # It needs neither the interpreter's lock, which a library may hold for good, nor a signal, and
    # says on stderr where the process was.
    faulthandler.dump_traceback_later(config.cluster.batch_hours * 3600, exit=True, file=2)
    try:
        results = []
        for part in batch.slices:
            forget_programs()
            results.append(_label_slice(part, config, guess))
        return results
    finally:
        faulthandler.cancel_dump_traceback_later()


@lru_cache(maxsize=4)
def _conformers(
    molecule_json: str, config: ConformerConfig, seed: int
) -> Float[np.ndarray, "nconf nat 3"]:
    """Positions in Angstrom, kept for the next slice of a molecule with many conformers."""
    return embed_conformers(Molecule.from_json(molecule_json), config, seed)


def _positions(part: Slice, config: RunConfig) -> Float[np.ndarray, "nconf nat 3"]:
    """Positions of a slice's conformers (Bohr), as they are stored."""
    if part.positions is not None:
        return part.positions
    made = _conformers(part.molecule_json, config.conformers, config.seed)[part.start : part.stop]
    # Rounded before they are labelled, so that labels belong to what is stored.
    positions = made * BOHR_PER_ANGSTROM
    bound = config.storage.precision.get("pos")
    return positions if bound is None else rounded(positions, bound)


def _label_slice(part: Slice, config: RunConfig, guess: OrbitalGuess | None) -> LabelledSlice:
    molecule = Molecule.from_json(part.molecule_json)

    def failure(stage: Literal["embed", "label"], reason: str, conformer: int = -1) -> Failure:
        return Failure(
            molecule.line,
            molecule.source_id,
            molecule.smiles,
            conformer,
            stage,
            reason,
        )

    try:
        positions = _positions(part, config)
    except ConformerError as error:
        # Told once, by the molecule's first slice.
        failures = (failure("embed", str(error)),) if part.start == 0 else ()
        return LabelledSlice(part.number, None, failures)
    index = np.arange(part.start, part.start + len(positions), dtype=np.int32)
    if not len(index):
        return LabelledSlice(part.number, None, ())
    try:
        if config.method == "mmff94":
            record = label_by_mmff94(molecule, index, positions, config)
            unsolved: list[tuple[int, str]] = []
        else:
            record, unsolved = label_by_dft(molecule, index, positions, config, guess)
    except (UnsupportedMoleculeError, ConformerError) as error:
        failures = (failure("label", str(error)),) if part.start == 0 else ()
        return LabelledSlice(part.number, None, failures)
    numbers = index if part.conformers is None else part.conformers
    problems = tuple(failure("label", reason, int(numbers[row])) for row, reason in unsolved)
    return LabelledSlice(part.number, record, problems)
