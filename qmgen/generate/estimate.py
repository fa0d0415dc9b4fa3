"""What a run will cost, from a short calibration on this machine."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qmgen.dataset import Chunking, MoleculeRecord, collect_provenance, write_store
from qmgen.errors import InputError
from qmgen.generate.config import RunConfig
from qmgen.generate.parts import save_part
from qmgen.generate.plan import Batch, Plan, ProgramShare, Slice
from qmgen.generate.planning import build_plan
from qmgen.generate.worker import LabelledSlice, label_batch

_NAO = 3
"""Place of the number of orbitals in a program's sizes."""
# Further conformers of a molecule cost the same each.
_CALIBRATION_CONFORMERS = 32
# Seconds until workers have started and imported what they need.
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a run.

    Attributes
    ----------
    molecules, conformers, rejected : int
        Molecules to label, their conformers as far as they can be embedded, records of the input
        that can't be used.
    programs : int
        Compiled programs that these need.
    label_core_seconds, compile_core_seconds : float
        Processor time for labels, and for compiling programs that the cache of this machine
        lacked.
    store_bytes, working_bytes : int
        Size of the dataset, and most that the run needs on disk until that is complete.
    calibrated : int
        Programs that were timed for the estimate.
    """

    molecules: int
    conformers: int
    rejected: int
    programs: int
    label_core_seconds: float
    compile_core_seconds: float
    store_bytes: int
    working_bytes: int
    calibrated: int

    @property
    def core_hours(self) -> float:
        """Processor time in all, hours."""
        return (self.label_core_seconds + self.compile_core_seconds) / 3600

    def wall_seconds(self, workers: int) -> float:
        """Time from start to end with so many workers of one core each."""
        return _START_SECONDS + 3600 * self.core_hours / workers


@dataclass(frozen=True)
class _Measured:
    """One molecule's calibration; seconds are of processor time."""

    nao: int
    seconds_per_conformer: float
    compile_seconds: float
    embedded_share: float
    record: MoleculeRecord | None
    part_bytes: int


def estimate_run(
    source: Path,
    config: RunConfig,
    *,
    sample: int = 6,
    smiles_column: str | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Estimate:
    """Plan a run, label a few of its molecules, and infer what the whole will cost.

    Two molecules are labelled of each of ``sample`` programs, so that what compilation takes is
    known apart; other programs' times follow from a power law in the number of orbitals. The times
    are those of this process on this machine.

    Parameters
    ----------
    source
        Molecules, as for `qmgen.generate.generate`.
    config
        Of the run.
    sample
        Most programs to calibrate.
    smiles_column
        Column of a csv file.
    progress
        Told what is being done.

    Raises
    ------
    InputError
        The input can't be read, or no molecule of the calibration could be labelled.
    """
    with tempfile.TemporaryDirectory() as folder:
        progress(f"reading {source.name}")
        plan = build_plan(source, Path(folder) / "plan", config, smiles_column=smiles_column)
        counts, programs = plan.counts(), plan.programs()
        measured: dict[tuple[int, ...], _Measured] = {}
        for share in _spread(programs, sample):
            progress(f"calibrating a program of {share.conformers:,} conformers")
            one = _measure(plan, share, config, Path(folder))
            if one is not None:
                measured[share.program] = one
        if not measured:
            raise InputError(
                f"{source}: none of the molecules of the calibration could be labelled"
            )
        records = [one.record for one in measured.values() if one.record is not None]
        store_bytes = _store_bytes(records, source, config, Path(folder))
    ones = list(measured.values())
    embedded = float(np.mean([one.embedded_share for one in ones]))
    compiled = float(np.mean([one.compile_seconds for one in ones]))
    labelled = sum(record.num_conformers for record in records)
    conformers = round(counts.conformers * embedded)
    part_bytes = sum(one.part_bytes for one in ones)
    seconds = sum(
        share.conformers * embedded * _seconds(share.program, measured) for share in programs
    )
    return Estimate(
        molecules=counts.molecules,
        conformers=conformers,
        rejected=counts.rejected,
        programs=len(programs),
        label_core_seconds=seconds,
        compile_core_seconds=compiled * len(programs),
        store_bytes=round(conformers * store_bytes / labelled),
        working_bytes=round(conformers * (store_bytes + part_bytes) / labelled),
        calibrated=len(ones),
    )


def _spread(programs: list[ProgramShare], sample: int) -> list[ProgramShare]:
    """Programs at equal steps of the conformers, ordered by size, so that none stands for many."""
    if len(programs) <= sample:
        return programs
    by_size = sorted(programs, key=lambda share: share.program)
    ends = np.cumsum([share.conformers for share in by_size])
    places = np.searchsorted(ends, (np.arange(sample) + 0.5) / sample * ends[-1])
    return [by_size[place] for place in sorted(set(places.tolist()))]


def _measure(plan: Plan, share: ProgramShare, config: RunConfig, folder: Path) -> _Measured | None:
    """Label a molecule, for the program to be compiled, and another; None if it can't be done."""
    per_molecule = share.conformers // share.molecules
    wanted = min(per_molecule, config.batch_conformers, _CALIBRATION_CONFORMERS)
    # Only so many are embedded, too.
    conformers = config.conformers.model_copy(update={"per_molecule": wanted})
    config = config.model_copy(update={"conformers": conformers})
    times = []
    for number in (share.first, share.last):
        part = Slice(number, plan.molecule_json(number), 0, wanted)
        start = time.process_time()
        (result,) = label_batch(Batch(0, (part,)), config, 1)
        times.append(time.process_time() - start)
    if result.record is None or not result.record.num_conformers:
        return None
    return _Measured(
        nao=share.program[_NAO] if len(share.program) > _NAO else 1,
        seconds_per_conformer=times[1] / result.record.num_conformers,
        compile_seconds=max(0.0, times[0] - times[1]),
        embedded_share=result.record.num_conformers / wanted,
        record=result.record,
        part_bytes=_part_bytes(result, folder),
    )


def _part_bytes(result: LabelledSlice, folder: Path) -> int:
    save_part(folder / "parts", 0, [result])
    return sum(path.stat().st_size for path in (folder / "parts").rglob("*") if path.is_file())


def _store_bytes(
    records: list[MoleculeRecord], source: Path, config: RunConfig, folder: Path
) -> int:
    """Bytes of the conformers' arrays in a store of these records."""
    provenance = collect_provenance(
        config=config.science(), seed=config.seed, source=source, command=""
    )
    write_store(
        folder / "store",
        records,
        (),
        provenance,
        split_seed=0,
        optional_labels=config.labels.optional_labels,
        precision=config.storage.precision,
    )
    # A shard of a large store has the same list of chunks as one of this small store.
    index = 16 * Chunking().chunks_per_shard + 4
    files = (folder / "store" / "conformers").rglob("*")
    return sum(
        path.stat().st_size - index for path in files if path.is_file() and path.name != "zarr.json"
    )


def _seconds(program: tuple[int, ...], measured: dict[tuple[int, ...], _Measured]) -> float:
    """Processor time of a conformer of a program."""
    if program in measured:
        return measured[program].seconds_per_conformer
    sizes = np.log([one.nao for one in measured.values()])
    times = np.log([one.seconds_per_conformer for one in measured.values()])
    if len(set(sizes.tolist())) < 2:
        return float(np.exp(times.mean()))
    slope, offset = np.polyfit(sizes, times, 1)
    return math.exp(offset + slope * math.log(program[_NAO]))
