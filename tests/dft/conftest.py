"""Inner functions of the engine run in float64 here; public ones turn it on themselves."""

from collections.abc import Iterator

import pytest

from qmgen.dft.precision import double_precision


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with double_precision():
        yield
