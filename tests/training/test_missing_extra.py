"""Imports, each in a process of its own."""

import subprocess
import sys

import pytest

_BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from qmgen.errors import MissingExtraError
try:
    import qmgen.training
except MissingExtraError as error:
    print(error)
"""


def _run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("blocked", ["torch", pytest.param("schnetpack", marks=pytest.mark.slow)])
def test_message_without_the_extra(blocked):
    if blocked != "torch":
        pytest.importorskip("torch")
    message = _run(_BLOCK.format(blocked=blocked))
    assert "pip install 'qmgen[train]'" in message
    assert f"No module named '{blocked}" in message


def test_generating_rooms_import_no_torch():
    code = "import sys, qmgen.molecules, qmgen.dft, qmgen.dataset; print('torch' in sys.modules)"
    assert _run(code).strip() == "False"
