"""How tests are shared out among the processes of `pytest -n 2 --dist loadgroup`."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent
_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of the tests share programs, as many tests compile the same ones."""
    if hasattr(config, "workerinput") or _PROGRAMS in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="qmgen-test-programs-")
    os.environ[_PROGRAMS] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares compiled programs or fixtures.

    That is a file; the tests of `generate` share one cluster, and none of them should find four
    busy workers on two cores.
    """
    for item in items:
        parts = item.path.relative_to(_ROOT).parts
        group = parts[0] if parts[0] == "generate" else "/".join(parts)
        item.add_marker(pytest.mark.xdist_group(group))
