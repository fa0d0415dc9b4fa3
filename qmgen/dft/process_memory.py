"""Memory of a process that labels one conformer after another."""

import ctypes
import sys
from pathlib import Path

import jax

# Of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let this process keep memory that it has freed, instead of giving it back at once.

    Each conformer's arrays are as large as the last one's. With memory that is new to the process
    the system clears every page first, which takes a tenth of a label's time. Where the C library
    isn't glibc nothing changes.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)


def forget_programs(most_maps: int | None = None) -> None:
    """Let go of all compiled programs once they are too many for this process.

    A molecule of a new size takes hundreds of memory maps. Past the number that Linux allows a
    process, the compiler takes it down: `make accuracy` after 80 of its 113 combinations. Programs
    that are needed again come from JAX's cache on disk. On other systems nothing happens.

    Parameters
    ----------
    most_maps
        Number of memory maps; by default half of those that are allowed.
    """
    if sys.platform != "linux":
        return
    if most_maps is None:
        most_maps = int(Path("/proc/sys/vm/max_map_count").read_text()) // 2
    with open("/proc/self/maps", "rb") as maps:
        if sum(1 for _ in maps) > most_maps:
            jax.clear_caches()
