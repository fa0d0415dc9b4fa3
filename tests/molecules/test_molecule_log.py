"""RDKit's log, of which there is one for all threads."""

import subprocess
import sys

# As threads of a server that draw molecules. It is another process, since RDKit would end it.
SCRIPT = """
import sys
from threading import Thread

from rdkit import Chem

from qmgen.molecules.rdkit_log import captured_errors, log_lines

wrong = []


def parse(number):
    smiles = f"C{number}(("
    for _ in range(500):
        with captured_errors() as capture:
            Chem.MolFromSmiles(smiles)
            lines = log_lines(capture)
        if not lines or not lines[0].endswith(smiles):
            wrong.append((smiles, lines))


sys.setswitchinterval(1e-6)
threads = [Thread(target=parse, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong[:3])
"""


def test_threads_get_their_own_messages_and_live() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
