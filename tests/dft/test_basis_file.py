"""Bases from files: what is read, what is kept of them, and what is refused."""

from pathlib import Path

import basis_set_exchange
import numpy as np
import pytest
from pydantic import ValidationError
from pyscf import gto
from pyscf.data.elements import ELEMENTS

from qmgen.dft.basis import basis_content, build_basis, element_shells
from qmgen.dft.basis_file import basis_title
from qmgen.dft.config import DFTConfig
from qmgen.errors import (
    InputError,
    MissingElementError,
    UnknownBasisError,
    UnsupportedMoleculeError,
)

SHIPPED = Path(__file__).parents[2] / "workflows" / "data" / "6-31g_2df_p_gaussian.nw"
NWCHEM = """\
# two elements
BASIS "ao basis" SPHERICAL
H    S
      3.42525091             0.15432897
      0.62391373             0.53532814
      0.16885540             0.44463454
C    SP
      2.9412494             -0.09996723             0.15591627
      0.6834831              0.39951283             0.60768372
END
"""
GAUSSIAN = """\
! two elements
****
H     0
S   3   1.00
      3.42525091             0.15432897
      0.62391373             0.53532814
      0.16885540             0.44463454
****
C     0
SP   2   1.00
      0.29412494D+01        -0.09996723             0.15591627
      0.6834831              0.39951283             0.60768372
****
"""


def write(folder: Path, text: str, name: str = "some.basis") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# Shared s and p exponents, general contraction, third row, up to h functions.
@pytest.mark.parametrize("name", ["6-31G**", "cc-pVTZ", "def2-QZVPPD", "ANO-RCC-VDZP", "cc-pV5Z"])
@pytest.mark.parametrize("kind", ["nwchem", "gaussian94"])
def test_files_of_the_basis_set_exchange_equal_pyscfs_reading(
    name: str, kind: str, tmp_path: Path
) -> None:
    numbers = [1, 8, 17]
    path = write(tmp_path, basis_set_exchange.get_basis(name, elements=numbers, fmt=kind))
    text = basis_content(path)
    as_nwchem = basis_set_exchange.get_basis(name, elements=numbers, fmt="nwchem", header=False)
    for number in numbers:
        ours = element_shells(text, number)
        expected = gto.basis.parse(as_nwchem, ELEMENTS[number])
        mols = [
            gto.M(atom=[[number, (0, 0, 0)]], basis={ELEMENTS[number]: list(b)}, spin=number % 2)
            for b in (ours, expected)
        ]
        # The Gaussian format has no general contraction, so shells are compared by their span.
        assert mols[0].nao == mols[1].nao
        both = gto.intor_cross("int1e_ovlp", *mols)
        S, R = (mol.intor("int1e_ovlp") for mol in mols)
        # Condition numbers reach 1e4.
        np.testing.assert_allclose(both.T @ np.linalg.solve(S, both), R, atol=1e-10)


@pytest.mark.parametrize(
    "text",
    [
        NWCHEM,
        GAUSSIAN,
        # As PySCF's own files, without frame, and as Windows writes.
        "\n".join(NWCHEM.splitlines()[2:-1]),
        NWCHEM.replace("\n", "\r\n"),
        "\ufeff" + NWCHEM,
        GAUSSIAN.replace("! two elements\n****\n", ""),
    ],
    ids=["nwchem", "gaussian", "no frame", "windows", "byte order mark", "no leading mark"],
)
def test_formats(text: str, tmp_path: Path) -> None:
    content = basis_content(write(tmp_path, text))
    hydrogen, carbon = element_shells(content, 1), element_shells(content, 6)
    sto3g = element_shells("sto-3g", 1)
    assert [np.asarray(s[1:]).tolist() for s in hydrogen] == [s[1:] for s in sto3g]
    assert carbon == (
        [0, [2.9412494, -0.09996723], [0.6834831, 0.39951283]],
        [1, [2.9412494, 0.15591627], [0.6834831, 0.60768372]],
    )


def test_configurations_are_equal_where_the_content_is(tmp_path: Path) -> None:
    one = DFTConfig(basis=write(tmp_path, NWCHEM, "one.nw"))
    copy = DFTConfig(basis=write(tmp_path, NWCHEM, "copy.txt"))
    other = DFTConfig(basis=write(tmp_path, NWCHEM.replace("0.6834831", "0.6834832"), "one.nw"))
    assert one == copy
    assert hash(one) == hash(copy)
    assert one != other


def test_the_content_is_kept_and_the_file_no_longer_needed(tmp_path: Path) -> None:
    path = write(tmp_path, NWCHEM)
    config = DFTConfig(basis=path)
    Path(path).unlink()
    again = DFTConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert build_basis(np.array([1, 6]), again.basis).nao == 1 + 4


def test_word_that_is_a_name_and_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("6-31g*", "cc-pVTZ(fi/sf/fw)"):
        assert basis_content(name) == name
    write(tmp_path, NWCHEM, "6-31g*")
    with pytest.raises(InputError, match=r"write \./6-31g\* for the file"):
        basis_content("6-31g*")
    assert basis_content("./6-31g*") == NWCHEM


def test_title_is_short() -> None:
    assert basis_title("def2-svp") == "def2-svp"
    title = basis_title(NWCHEM)
    assert title.startswith("from a file (sha256 ")
    assert len(title) < 50
    assert title != basis_title(GAUSSIAN)


BAD = {
    "letter": (NWCHEM.replace("C    SP", "C    Q1"), ", line 7: "),
    "unknown degree": (NWCHEM.replace("C    SP", "C    Y"), ", line 7: "),
    "GAMESS's name of SP": (NWCHEM.replace("C    SP", "C    L"), ", line 7: .* called SP"),
    "unknown element": (NWCHEM.replace("C    SP", "Cx    SP"), ", line 7: "),
    "no number": (NWCHEM.replace("0.53532814", "0.535x"), ", line 3: .*0.535x"),
    "no decimal point": (NWCHEM.replace("0.62391373", "1"), ", line 3: .*decimal point"),
    "column missing": (NWCHEM.replace("0.60768372", ""), ", line 7: "),
    "shell without primitives": (NWCHEM.replace("END", "C    D\nEND"), ", line 10: "),
    "negative exponent": (NWCHEM.replace("   2.94", "  -2.94"), ", line 7: exponent -2.94.* posit"),
    "zero exponent": (NWCHEM.replace("0.6834831", "0.0000000"), ", line 7: exponent 0.0"),
    "no coefficient": (
        NWCHEM.replace("0.15591627", "0.0").replace("0.60768372", "0.0"),
        ", line 7: all",
    ),
    "Gaussian, no number": (GAUSSIAN.replace("0.535", "o.535"), ", line 4: .*o.535"),
    "Gaussian, too few lines": (GAUSSIAN.replace("SP   2", "SP   3"), ", line 10: .*rows|3 vs 2"),
    "Gaussian, no end": (GAUSSIAN.rstrip("*\n"), ": .*terminating"),
    "prose": ("Dear reader,\nthis is no basis.\n", ", line 1: "),
    "numbers": ("1.0 2.0\n3.0 4.0\n5.0 6.0\n", ": "),
    "empty": ("", ": holds no basis"),
    "comments only": ("# nothing\n# here\n", ": holds no basis"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=rf"some\.basis{expected}") as caught:
        basis_content(path)
    assert str(caught.value).startswith(path)
    assert "give a basis in NWChem or Gaussian 94 format" in str(caught.value)
    with pytest.raises(ValidationError, match=r"some\.basis"):
        DFTConfig(basis=path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.nw"
    with pytest.raises(InputError, match=rf"can't read the basis file {missing}: No such file"):
        basis_content(str(missing))
    with pytest.raises(InputError, match=r"can't read the basis file .*: Is a directory"):
        basis_content(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary: no text"):
        basis_content(str(tmp_path / "binary"))
    with pytest.raises(UnknownBasisError, match="or the path of a file"):
        basis_content("nowhere")


def test_element_that_the_file_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(MissingElementError, match=r"sha256 .* functions for Cl, only for H, C, N"):
        build_basis(np.array([17, 1]), basis_content(str(SHIPPED)))


@pytest.mark.parametrize("kind", ["nwchem", "gaussian94"])
def test_effective_core_potential_in_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    text = basis_set_exchange.get_basis("def2-SVP", elements=[1, 53], fmt=kind)
    content = basis_content(write(tmp_path, text))
    with pytest.raises(UnsupportedMoleculeError, match="effective core potential for I"):
        build_basis(np.array([53, 1]), content)
    assert build_basis(np.array([1, 1]), content).nao == 10


@pytest.mark.parametrize(("number", "f_exponent"), [(6, 0.8), (7, 1.0), (8, 1.4), (9, 1.85)])
def test_shipped_basis_has_gaussians_polarisation(number: int, f_exponent: float) -> None:
    """Frisch, Pople, Binkley, J. Chem. Phys. 80, 3265 (1984)."""
    shells = element_shells(basis_content(str(SHIPPED)), number)
    assert [s[0] for s in shells] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert [s[1][0] for s in shells[-3:]] == [1.6, 0.4, f_exponent]
    # Below them 6-31G, whose digits PySCF's own table rounds.
    for ours, theirs in zip(shells[:5], gto.basis.load("6-31g", ELEMENTS[number]), strict=True):
        np.testing.assert_allclose(ours[1:], theirs[1:], rtol=2e-4)
