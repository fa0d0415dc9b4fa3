"""Memory of a process that labels one conformer after another."""

import ctypes
import sys

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
