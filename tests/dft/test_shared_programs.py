"""Programs that processes share: who compiles them, and that results are those of `jax.jit`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.dft.shared_programs import shared_program

# Compiles a program as soon as a file appears, and tells what JAX's cache of programs did.
PROCESS = """
import json, sys, time
from pathlib import Path
import jax, jax.numpy as jnp
from qmgen.dft.shared_programs import shared_program

counts = {"hits": 0}
def count(event, **_):
    counts["hits"] += event == "/jax/compilation_cache/cache_hits"

@shared_program(static_argnames="n")
def repeated(x, n):
    for _ in range(n):
        x = jnp.sin(x @ x) + jnp.cos(x)
    return x

x = jnp.ones((30, 30)).block_until_ready()
jax.monitoring.register_event_listener(count)
print("ready", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.001)
result = repeated(x, n=150)
print(json.dumps({**counts, "sum": float(result.sum())}))
"""


def test_one_process_compiles_for_all(tmp_path: Path) -> None:
    start = tmp_path / "start"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", PROCESS, str(start)]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start.touch()
    first, second = (json.loads(process.communicate()[0]) for process in processes)
    assert sorted([first["hits"], second["hits"]]) == [0, 1]
    assert first["sum"] == second["sum"]


# JAX's own, where it can't use the folder.
@pytest.mark.filterwarnings("ignore:Error (reading|writing) persistent compilation cache")
@pytest.mark.parametrize("folder", [None, "file", "cache"])
def test_results_are_those_of_jit(folder: str | None, tmp_path: Path) -> None:
    """Whether or not programs can be shared, and within transformations."""

    def function(x: jax.Array, power: int) -> jax.Array:
        return jnp.sum(x**power)

    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    # Below a file there can't be a folder.
    jax.config.update(
        "jax_compilation_cache_dir",
        folder and str(tmp_path / folder / "programs"),
    )
    try:
        program = shared_program(static_argnames="power")(function)
        x = jnp.asarray([1.0, 2.0, 3.0])
        for power in (2, 3):
            assert program(x, power=power) == function(x, power)
        np.testing.assert_array_equal(jax.grad(program)(x, power=2), 2 * x)
        assert program(x[:2], power=2) == 5
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert (tmp_path / "cache" / "programs").exists() == (folder == "cache")
