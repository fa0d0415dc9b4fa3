"""Bytes of labels at a bound: as they are, rounded, and on a grid whose points are entropy-coded.

    python benchmarks/efficiency/label_codec.py demo/dataset.zarr

Each label of the dataset is written as an array of its own, cut and checked as the store's are. Run
as `make benchmark-label-codec`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from benchmarks.reporting import table
from qmgen.dataset import Chunking, open_dataset
from qmgen.dataset.quantised_codec import UniformGridCodec
from qmgen.dataset.rounding import rounded

# Bounds in the units of the dataset: of copies, and of training.
BOUNDS = {"pos": (1e-5, 1e-3), "energy": (1e-9, 1e-6)}
OTHERS = (1e-7, 1e-5)
LABELS = ("pos", "energy", "forces", "gap", "dipole", "mulliken_charges", "orbital_energies")
CHUNKING = Chunking()


class Stored(NamedTuple):
    """Bytes a value, the largest error over the bound, and millions of values a second."""

    bytes: float
    error: float
    written: float
    read: float


def zstd() -> dict[str, Any]:
    return {"compressors": [ZstdCodec(level=CHUNKING.level), Crc32cCodec()]}


def shuffled() -> dict[str, Any]:
    codec = BloscCodec(cname="zstd", clevel=CHUNKING.level, shuffle="shuffle")
    return {"compressors": [codec, Crc32cCodec()]}


def grid(step: float) -> dict[str, Any]:
    return {"serializer": UniformGridCodec(step), "compressors": [Crc32cCodec()]}


def store(folder: Path, values: np.ndarray, bound: float, options: dict[str, Any]) -> Stored:
    chunk = max(1, CHUNKING.elements // max(1, int(np.prod(values.shape[1:]))))
    array = zarr.create_array(
        str(folder),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *values.shape[1:]),
        shards=(chunk * CHUNKING.chunks_per_shard, *values.shape[1:]),
        **options,
    )
    started = time.process_time()
    array[:] = values
    written = time.process_time()
    back = zarr.open_array(str(folder), mode="r")[:]
    read = time.process_time()
    assert isinstance(back, np.ndarray)
    size = sum(file.stat().st_size for file in folder.glob("c/**/*") if file.is_file())
    error = float(np.nanmax(np.abs(back - values), initial=0.0)) / bound
    million = values.size / 1e6
    return Stored(
        size / values.size, error, million / (written - started), million / (read - written)
    )


def variants(values: np.ndarray, bound: float) -> dict[str, Callable[[Path], Stored]]:
    near = rounded(values, bound)

    def of(kept: np.ndarray, options: dict[str, Any]) -> Callable[[Path], Stored]:
        def measure(folder: Path) -> Stored:
            found = store(folder, kept, bound, options)
            before = float(np.nanmax(np.abs(kept - values), initial=0.0)) / bound
            return found._replace(error=max(found.error, before))

        return measure

    return {
        "float32, Zstd": of(values.astype(np.float32), zstd()),
        "float64, Zstd": of(values, zstd()),
        "rounded, Zstd (the store's)": of(near, zstd()),
        "rounded, shuffled bytes, Zstd": of(near, shuffled()),
        "the same grid, entropy-coded": lambda folder: store(
            folder, values, bound, {**grid(UniformGridCodec.of_bound(bound).step)}
        ),
        "steps of twice the bound, entropy-coded": lambda folder: store(
            folder, values, bound, grid(2 * bound)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="dataset whose labels to store")
    dataset = open_dataset(parser.parse_args().store)
    print(f"{len(dataset)} conformers of {dataset.num_molecules} molecules")
    totals: dict[str, list[float]] = {}
    for name in (label for label in LABELS if label in dataset.columns):
        values = np.asarray(dataset.column(name), np.float64)
        if not np.isfinite(values).any():
            continue
        for which, bound in enumerate(BOUNDS.get(name, OTHERS)):
            rows = []
            for title, measure in variants(values, bound).items():
                with tempfile.TemporaryDirectory(prefix="qmgen-codec-") as folder:
                    found = measure(Path(folder) / "array")
                rows.append(
                    [
                        title,
                        f"{found.bytes:.3f}",
                        f"{found.error:.3g}",
                        f"{found.written:.1f}",
                        f"{found.read:.1f}",
                    ]
                )
                sums = totals.setdefault(title, [0.0, 0.0])
                sums[which] += found.bytes * values.size / len(dataset)
            print(f"{name}, {values.size} values, bound {bound:g}")
            table(
                ["", "bytes a value", "error / bound", "written, million/s", "read, million/s"],
                rows,
            )
    print("All of these labels")
    table(
        ["", "bytes a conformer, bounds of copies", "bounds of training"],
        [[title, *(f"{size:.0f}" for size in sums)] for title, sums in totals.items()],
    )


if __name__ == "__main__":
    main()
