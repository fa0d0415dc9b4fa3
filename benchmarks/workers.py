"""One Dask worker against two, each of one thread, on the same molecules.

A first run, of fewer conformers, fills the cache of compiled programs and does not count; what
workers take to start does. Run as `make benchmark-workers`.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

from end_to_end import CONFIG, generate

# As many as have the programs of more conformers.
FEW_CONFORMERS = 24
MOLECULES = Path(__file__).parent / "data" / "gdb9.smi"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, default=MOLECULES)
    parser.add_argument("--molecules", type=int, default=24)
    parser.add_argument("--conformers", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="mixed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "molecules.smi"
        with arguments.input.open(encoding="utf-8") as lines:
            source.write_text("".join(itertools.islice(lines, arguments.molecules)))

        def seconds(store: str, conformers: int, workers: int) -> float:
            cache, precision = folder / "cache", arguments.precision
            return generate(source, folder / store, cache, conformers, workers, precision)

        seconds("few.zarr", min(arguments.conformers, FEW_CONFORMERS), arguments.workers)
        several = seconds("several.zarr", arguments.conformers, arguments.workers)
        one = seconds("one.zarr", arguments.conformers, 1)
    print(
        f"{arguments.molecules} molecules, {arguments.conformers} conformers each, "
        f"{CONFIG.functional}/{CONFIG.basis}, {arguments.precision}"
    )
    print(f"1 worker: {one:.0f} s; {arguments.workers} workers: {several:.0f} s")
    print(f"ratio: {one / several:.2f}")


if __name__ == "__main__":
    main()
