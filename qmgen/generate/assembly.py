"""Puts the finished slices of molecules together, in the order of the input."""

import itertools
from collections.abc import Iterator

import numpy as np

from qmgen.dataset import MoleculeRecord, Place
from qmgen.generate.parts import load_parts
from qmgen.generate.plan import Plan
from qmgen.generate.worker import LabelledSlice


def finished_records(plan: Plan, parts: Place) -> Iterator[MoleculeRecord]:
    """Molecules in the order of the input, one window in memory at a time.

    What went wrong with them is added to the plan.

    Raises
    ------
    DamagedPartError
        As `qmgen.generate.parts.load_part`.
    """
    return (record for _, record in finished_molecules(plan, parts))


def finished_molecules(plan: Plan, parts: Place) -> Iterator[tuple[int, MoleculeRecord]]:
    """As `finished_records`, each with its number in the plan."""
    plan.forget_label_failures()
    for window in plan.windows():
        pieces: dict[int, list[LabelledSlice]] = {}
        for batch in load_parts(parts, window):
            for part in batch:
                pieces.setdefault(part.number, []).append(part)
        slices = itertools.chain.from_iterable(pieces.values())
        plan.add_label_failures(itertools.chain.from_iterable(s.failures for s in slices))
        for number in sorted(pieces):
            record = joined([p.record for p in pieces[number] if p.record is not None])
            if record is not None:
                yield number, record


def joined(records: list[MoleculeRecord]) -> MoleculeRecord | None:
    """Join the slices of one molecule, in the order of its conformers."""
    if not records:
        return None
    first = records[0]
    filled = [r.conformers for r in records if r.num_conformers]
    if not filled:
        filled = [first.conformers]
    filled.sort(
        key=lambda conformers: int(conformers["index"][0]) if len(conformers["index"]) else 0
    )
    joined = {name: np.concatenate([c[name] for c in filled]) for name in filled[0]}
    return MoleculeRecord(
        line=first.line,
        source_id=first.source_id,
        smile=first.smile,
        charge=first.charge,
        spin=first.spin,
        z=first.z,
        nao=first.nao,
        conformers=joined,
    )
