"""A run of a million conformers through plan, scheduler and store, with a force field as labeller.

The molecules are QM9's. The command is killed once on the way and started again. Measured: the
conformers per second, the memory of the command (which holds Dask's scheduler) along the way, the
seconds from the second start to the next finished batch, and what `qmgen verify` says. Run as
`make benchmark-million`.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from qmgen.dataset import open_dataset
from qmgen.dataset.provenance import describe_hardware
from qmgen.generate.qm9 import qm9_files

# No part of an hour-long run is resolved finer than this, seconds.
_LOOK_S = 0.5
_RUN = (sys.executable, "-m", "qmgen.cli")


class Sample(NamedTuple):
    """What a command holds in memory, bytes, once so many conformers were finished."""

    finished: int
    resident: int


def write_smiles(path: Path, number: int) -> None:
    """Write the first molecules of QM9 as a .smi file."""
    tables = [stream.open(newline="", encoding="utf-8") for stream in qm9_files()]
    try:
        rows = chain.from_iterable(csv.DictReader(stream) for stream in tables)
        lines = (f"{row['SMILES']} {row['XYZ_file']}\n" for row in islice(rows, number))
        path.write_text("".join(lines), encoding="utf-8")
    finally:
        for stream in tables:
            stream.close()


class Log:
    """The run's own log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.events: list[dict] = []

    def follow(self) -> None:
        """Read what was written since the last call."""
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as stream:
            stream.seek(self._read)
            while (line := stream.readline()).endswith("\n"):
                self.events.append(json.loads(line))
                self._read = stream.tell()

    @property
    def conformers(self) -> int:
        """Conformers of the batches that are finished."""
        return sum(e["conformers"] for e in self.events if e["event"] == "batch")


def watch(command: list[str], log: Log, kill_after: int | None) -> list[Sample]:
    """Run a command to its end, or kill it with its workers after so many conformers."""
    samples = []
    with psutil.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(_LOOK_S)
            log.follow()
            finished = log.conformers
            resident = process.memory_info().rss
            # A process that has just ended holds nothing.
            if finished and resident:
                samples.append(Sample(finished, resident))
            if kill_after is not None and finished >= kill_after:
                for child in (process, *process.children(recursive=True)):
                    child.kill()
                return samples
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return samples


def at(event: dict) -> float:
    """Time of an event, seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=25_500)
    parser.add_argument("--conformers", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1000, help="conformers of a batch")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to leave the store and the log")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        source, store, log_file = folder / "qm9.smi", folder / "run.zarr", folder / "run.jsonl"
        write_smiles(source, arguments.molecules)
        config = folder / "run.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "method": "mmff94",
                    "labels": {"forces": True},
                    "conformers": {"per_molecule": arguments.conformers},
                    "batch_conformers": arguments.batch,
                    "cluster": {"workers": arguments.workers},
                }
            ),
            encoding="utf-8",
        )
        command = [*_RUN, "generate", str(source), str(store), "--config", str(config)]
        command += ["--log", str(log_file)]
        wanted = arguments.molecules * arguments.conformers
        log = Log(log_file)
        launched = time.time()
        watch(command, log, wanted // 2)
        before, killed = len(log.events), log.conformers
        relaunched = time.time()
        samples = watch(command, log, None)
        ended = time.time()
        start, again = (e for e in log.events if e["event"] == "start")
        batches = [e for e in log.events if e["event"] == "batch"]
        after = [e for e in log.events[before:] if e["event"] == "batch"]
        failures = sum(len(e["failures"]) for e in batches)
        first_half = killed / (at([e for e in batches if e not in after][-1]) - at(start))
        rest = sum(e["conformers"] for e in after) / (at(after[-1]) - at(again))
        verified = time.perf_counter()
        status = subprocess.run([*_RUN, "verify", str(store)], check=False).returncode
        verified = time.perf_counter() - verified
        dataset = open_dataset(store)
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        objects = sum(path.is_file() for path in store.rglob("*"))
    print(
        f"{len(dataset)} conformers of {dataset.num_molecules} molecules, MMFF94 energies and "
        f"forces, {arguments.workers} workers, batches of {arguments.batch} conformers; "
        f"{failures} failures recorded"
    )
    print(f"planning: {at(start) - launched:.0f} s")
    print(
        f"labelling: {first_half:.0f} conformers/s up to the kill at {killed} conformers, "
        f"{rest:.0f} after it, starts of workers included"
    )
    print(f"second start to its first finished batch: {at(after[0]) - relaunched:.1f} s")
    print(f"writing the store: {ended - at(after[-1]):.0f} s")
    print(f"whole, the kill included: {len(dataset) / (ended - launched):.0f} conformers/s")
    shown = [samples[round(i * (len(samples) - 1) / 8)] for i in range(9)]
    print(
        "memory of the command after the kill: "
        + ", ".join(f"{s.resident >> 20} MiB at {s.finished}" for s in shown)
    )
    print(f"qmgen verify: exit status {status}, {verified:.0f} s")
    print(f"store: {size / len(dataset):.0f} bytes a conformer, {objects} files")
    hardware = describe_hardware([])
    print(f"{hardware.cpu}, {hardware.cores} cores; {platform.system()}")


if __name__ == "__main__":
    main()
