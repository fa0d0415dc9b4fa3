"""The page of a dataset: complete, of its own, harmless, and there for every kind of store."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import Dataset, verify_store
from qmgen.dataset.validation import LabelError, ValidationReport, write_validation
from qmgen.inspection import report, write_report
from qmgen.inspection.report import level_of_theory, render_report
from tests.inspection.conftest import HOSTILE, SMILES, Write, fails, record, text_of


class Page(HTMLParser):
    """Elements and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def page(dataset: Dataset) -> Page:
    return Page(render_report(dataset))


def test_shows_what_the_store_holds(dataset: Dataset, page: Page) -> None:
    counts = dataset.metadata.counts
    for words in (
        f"{counts.molecules} molecules {counts.conformers} labelled conformers",
        f"{counts.failures} failures and rejected lines",
        "b3lyp/",
        "grid level 1",
        "force on an atom (norm)",
        "2 × embed: no conformer in … attempts",
        dataset.metadata.provenance.config_hash,
        "4 missing",  # gaps of the molecule without LUMO
    ):
        assert words in page.text, words
    assert f"Over {counts.converged} converged conformers" in page.text


def test_every_label_has_a_chart_with_its_unit(page: Page) -> None:
    labels = [
        a["aria-label"] or "" for tag, a in page.elements if tag == "svg" and "aria-label" in a
    ]
    for title, unit in (
        ("energy beyond a linear fit on composition", "eV"),
        ("HOMO energy", "eV"),
        ("LUMO energy", "eV"),
        ("HOMO-LUMO gap", "eV"),
        ("dipole moment (norm)", "Debye"),
        ("quadrupole moment (norm)", "e Bohr²"),
        ("force on an atom (norm)", "eV/Å"),
        ("Mulliken charge of an atom", "e"),
        ("orbital energies", "eV"),
        ("standard deviation of the last five SCF energies", "eV"),
        ("SCF cycles", ""),
    ):
        assert any(
            label.startswith(f"Histogram of {title}:") and f" {unit}," in label for label in labels
        ), title
    assert any(label.startswith("Map of 12 molecules") for label in labels)
    assert any("against distance" in label for label in labels)


def test_nothing_of_the_data_is_markup_and_nothing_is_loaded(page: Page) -> None:
    assert HOSTILE in page.text
    assert page.count("script") == 1  # the page's own
    assert page.count("img") == 0
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)


def test_imported_labels(imported: Dataset) -> None:
    page = Page(render_report(imported))
    assert "a level · labels from Some data (a program)" in page.text
    assert "Not known: nuclear repulsion; HOMO energy;" in page.text
    assert "How the SCF went is not known." in page.text
    assert "No molecule of the sample has two converged conformers." in page.text
    assert re.search(r"val 0 0 test 0 0", page.text)


def test_failures_only(failed: Dataset) -> None:
    page = Page(render_report(failed))
    assert "No molecule has a labelled conformer." in page.text
    assert "2 × embed" in page.text
    # A failed molecule that RDKit knows is drawn.
    assert "Structural formula of CCBr" in {a.get("aria-label") for _, a in page.elements}


def test_labels_that_are_no_numbers(write: Write) -> None:
    sick = [record(smiles, line) for line, smiles in enumerate(SMILES[:3], start=1)]
    for one in sick:
        for name, values in one.conformers.items():
            if values.dtype == np.float64 and name not in ("energy", "pos"):
                values[...] = np.nan
    page = Page(render_report(write(sick)))
    assert "Not known: nuclear repulsion; HOMO energy; LUMO energy;" in page.text
    assert page.count("circle") > 3  # the map needs no gap
    none = [record("CCO", 1)]
    none[0].conformers["converged"][:] = False
    assert "No conformer converged." in Page(render_report(write(none))).text


def test_large_stores_are_sampled(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_CONFORMERS", 20)
    monkeypatch.setattr("qmgen.inspection.sampling._RUN", 5)
    monkeypatch.setattr(report, "_MAP_MOLECULES", 4)
    monkeypatch.setattr(report, "_SPREAD_MOLECULES", 2)
    first, second = render_report(dataset, seed=1), render_report(dataset, seed=1)
    assert first == second
    assert first != render_report(dataset, seed=2)
    page = Page(first)
    # The last run of rows is shorter.
    assert re.search(rf"those of a sample of (20|17) of {len(dataset)} conformers", page.text)
    assert " conformers of 2 molecules, each against" in page.text


def test_level_of_theory(dataset: Dataset, imported: Dataset) -> None:
    assert level_of_theory(dataset.metadata) == f"b3lyp/{HOSTILE}, grid level 1"
    assert level_of_theory(imported.metadata) == "a level"
    about = dataset.metadata.provenance.model_copy(update={"config": {}})
    unknown = dataset.metadata.model_copy(update={"provenance": about})
    assert level_of_theory(unknown) == "see the configuration"


def test_command_with_validation(dataset: Dataset, tmp_path: Path) -> None:
    good = LabelError("energy", "mHa", 1e-6, 3e-6, 1e-3, 12)
    bad = LabelError("gap", "meV", 1.0, 2.5, 1e-3, 4)
    file, out = tmp_path / "validation.json", tmp_path / "report.html"
    write_validation(ValidationReport((good, bad), 7, 0), dataset, file)
    arguments = ["report", str(dataset.path), "--out", str(out), "--validation", str(file)]
    for _ in range(2):  # the second time in place of the first
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    page = Page(text_of(out))
    assert "Not all labels are within tolerance on 7 recomputed conformers" in page.text
    assert "gap meV 1.00e+00 2.50e+00 1.00e-03 4 fails" in page.text
    assert "energy mHa 1.00e-06 3.00e-06 1.00e-03 12 ok" in page.text
    assert {p.name for p in tmp_path.iterdir()} == {"validation.json", "report.html"}
    assert verify_store(dataset.path).intact


def test_a_slip_replaces_no_other_file(dataset: Dataset, tmp_path: Path) -> None:
    source = tmp_path / "molecules.smi"
    source.write_text("C\n", encoding="utf-8")
    assert "must end in .html" in fails(lambda: write_report(dataset, source))
    assert text_of(source) == "C\n"
    missing = tmp_path / "no" / "report.html"
    assert "folder that exists" in fails(lambda: write_report(dataset, missing))
