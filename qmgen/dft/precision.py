"""The one place where qmgen turns on JAX's 64-bit types."""

from contextlib import AbstractContextManager

import jax


def double_precision() -> AbstractContextManager[None]:
    """Context in which JAX keeps float64 arrays, without touching the process's own setting.

    Public functions of `qmgen.dft` enter it themselves; code that calls the inner functions
    directly (tests, notebooks) enters it once around its calls.
    """
    return jax.enable_x64(True)
