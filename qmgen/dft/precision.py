"""The one place where qmgen turns on JAX's 64-bit types."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def double_precision() -> Iterator[None]:
    """Context in which JAX keeps float64 arrays, without touching the process's own setting.

    Float32 products keep all of their bits, too: on a GPU JAX would round factors to TF32, whose
    total energies of ten atoms are off by 1e-3 Hartree.

    Public functions of `qmgen.dft` enter it themselves; code that calls the inner functions
    directly (tests, notebooks) enters it once around its calls.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield
