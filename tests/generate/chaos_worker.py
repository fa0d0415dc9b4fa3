"""What goes wrong in workers of the chaos test: `dask worker --preload` runs `dask_setup`."""

import os
import time
from dataclasses import replace

import numpy as np

HOG_BYTES = 3 << 29


def dask_setup(worker) -> None:
    """Let some of this worker's batches fail, in a way that its seed and process number choose."""
    from qmgen.generate import worker as module

    label = module.label_batch
    random = np.random.default_rng([int(os.environ["CHAOS_SEED"]), os.getpid()])

    def troubled(batch, config, threads, guess=None):
        time.sleep(random.uniform(0.05, 0.2))
        trouble = random.choice(
            ["none", "error", "no memory", "nothing", "others", "too much memory"],
            p=[0.84, 0.05, 0.03, 0.03, 0.03, 0.02],
        )
        if trouble == "error":
            raise RuntimeError("an error that passes")
        if trouble == "no memory":
            raise MemoryError("that passes")
        if trouble == "nothing":
            return None
        if trouble == "too much memory":
            hog = np.ones(HOG_BYTES // 8)
            # The nanny ends this process.
            time.sleep(30)
            del hog
        slices = label(batch, config, threads, guess)
        if trouble == "others":
            first = slices[0]
            if first.record is not None:
                index = first.record.conformers["index"] + 1000
                conformers = first.record.conformers | {"index": index}
                first = replace(first, record=replace(first.record, conformers=conformers))
            return [first, *slices[1:]]
        return slices

    # Tasks name the function by its place.
    troubled.__module__, troubled.__qualname__ = label.__module__, label.__qualname__
    module.label_batch = troubled
