"""Whatever a molecule file holds, reading it gives records or one clear error."""

import gzip
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from rdkit import Chem

from qmgen.molecules import Molecule, deduplicate, read_molecules
from tests.fuzzing import damaged_bytes, fuzz, or_refused

_SMI = b"SMILES id\nCCO ethanol\nC1=CC=CC=C1\tbenzene\n[NH4+]\n# note\nF/C=C/F\n[13CH3]C#N n\n"
_CSV = b'id,smiles,note\n1,CCO,"a, b"\n2,"C#N",\n3,[OH-],"two\nlines"\n'
_SDF = (Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")) + "\n$$$$\n").encode() * 2
_XYZ = (
    b"3\nwater charge=0\nO 0 0 0.1\nH 0 0.75 -0.5\nH 0 -0.75 -0.5\n"
    b"2\nid=n2 spin=0 Properties=species:S:1:pos:R:3\nN 0 0 0\nN 0 0 1.1\n"
    b"1\nmultiplicity=2\nH 0 0 0\n"
)
_FILES = {".smi": _SMI, ".csv": _CSV, ".sdf": _SDF, ".xyz": _XYZ}


def _examples() -> st.SearchStrategy[Any]:
    suffix = st.sampled_from(sorted(_FILES))
    return suffix.flatmap(
        lambda chosen: st.tuples(st.just(chosen), damaged_bytes([_FILES[chosen]]), st.booleans())
    )


def check(example: tuple[str, bytes, bool]) -> None:
    suffix, content, packed = example
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"molecules{suffix}{'.gz' * packed}"
        path.write_bytes(gzip.compress(content) if packed else content)
        records = or_refused(path, lambda: list(deduplicate(read_molecules(path))))
    for record in records or ():
        assert record.line >= 1
        if isinstance(record, Molecule):
            again = Molecule.from_json(record.to_json())
            assert (again.smiles, again.spin) == (record.smiles, record.spin)
        else:
            assert record.reason


def check_packed(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "molecules.smi.gz"
        path.write_bytes(content)
        or_refused(path, lambda: list(read_molecules(path)))


test_quick, test_slow = fuzz(check, _examples())
test_packed_quick, test_packed_slow = fuzz(check_packed, damaged_bytes([gzip.compress(_SMI)]))


@pytest.mark.parametrize("suffix", _FILES)
def test_the_undamaged_files_are_good(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(_FILES[suffix])
    records = list(read_molecules(path))
    assert len(records) >= 2
    assert all(isinstance(record, Molecule) for record in records)
