"""Inner functions of the engine run in float64 here; public ones turn it on themselves."""

from collections.abc import Iterator

import jax
import pytest

from qmgen.dft.precision import double_precision


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with double_precision():
        yield


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module() -> Iterator[None]:
    """Thousands of compiled programs exhaust the memory mappings that a process may have."""
    yield
    jax.clear_caches()
