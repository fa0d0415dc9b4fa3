"""What a process keeps of the programs that it has compiled."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from qmgen.dft.process_memory import forget_programs


def memory_maps() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts memory maps")
def test_programs_are_forgotten_once_they_are_many() -> None:
    traced = []

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return jnp.sin(x) + 1

    x = jnp.ones(3)
    forget_programs()
    for n in range(2, 30):
        program(jnp.ones(n))
    assert len(traced) == 28
    before = memory_maps()
    # Not too many yet.
    forget_programs(10 * before)
    assert program(x)[0] == pytest.approx(jnp.sin(1.0) + 1)
    assert len(traced) == 28
    forget_programs(before // 2)
    assert memory_maps() < before - 28
    assert program(x)[0] == pytest.approx(jnp.sin(1.0) + 1)
    assert len(traced) == 29
