"""How tests are shared out among the processes of `pytest -n 2 --dist loadgroup`."""

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares compiled programs or fixtures.

    That is a file; the tests of `generate` share one cluster, and none of them should find four
    busy workers on two cores.
    """
    for item in items:
        parts = item.path.relative_to(_ROOT).parts
        group = parts[0] if parts[0] == "generate" else "/".join(parts)
        item.add_marker(pytest.mark.xdist_group(group))
