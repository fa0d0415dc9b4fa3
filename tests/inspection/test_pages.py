"""Both pages in a real browser, without display."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmgen.dataset import Dataset
from qmgen.inspection import write_report
from qmgen.inspection.server import make_server
from tests.inspection.conftest import HOSTILE, HOSTILE_TOO, Visit

WIDE = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(dataset, path)
    return path


@pytest.fixture(scope="module")
def address(dataset: Dataset) -> Iterator[str]:
    with make_server(dataset) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def lowest(dataset: Dataset, molecule: int) -> str:
    """Row of a molecule's conformer of lowest energy, all of which converged."""
    rows = dataset.conformers_of(molecule)
    return str(rows[int(dataset.column("energy", rows).argmin())])


def fits(page: Any) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def hacked(page: Any) -> bool:
    return bool(page.evaluate("window.hacked === 1"))


def test_report(visit: Callable[..., Visit], report: Path) -> None:
    seen = visit(viewport=WIDE)
    page = seen.page
    page.goto(report.as_uri())
    assert page.title() == "some molecules.zarr: dataset report"
    # What is pointed at explains itself, with the molecule's formula.
    hint = page.locator("#hint")
    assert hint.is_hidden()
    page.locator("#labels rect.mark").first.hover()
    assert " eV: " in hint.inner_text()
    page.locator("#space circle.mark").last.hover()
    assert "gap" in hint.inner_text()
    assert hint.locator("svg path").count() > 0
    # So does what the arrow keys reach.
    page.keyboard.press("Escape")
    assert hint.is_hidden()
    # Away from the charts: what scrolls under the pointer is pointed at, too.
    page.mouse.move(0, 0)
    page.locator("#conformers svg.chart").focus()
    page.keyboard.press("ArrowRight")
    assert "Å" in hint.inner_text()
    before = hint.inner_text()
    page.keyboard.press("ArrowRight")
    assert hint.inner_text() != before
    assert page.locator("#molecules .card .formula svg").count() == 12
    assert page.get_by_text(HOSTILE).count() > 1
    assert page.get_by_text(HOSTILE_TOO).count() == 1
    assert not hacked(page)
    assert seen.complaints == []
    assert {url.split(":")[0] for url in seen.requests} <= {"file", "data"}


def test_report_in_the_dark_on_a_phone(visit: Callable[..., Visit], report: Path) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        seen = visit(viewport=PHONE, color_scheme=scheme)
        seen.page.goto(report.as_uri())
        assert fits(seen.page)
        colours.add(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert seen.complaints == []
    assert len(colours) == 2


def test_browse(visit: Callable[..., Visit], address: str) -> None:
    from playwright.sync_api import expect

    seen = visit(viewport=WIDE)
    page = seen.page
    page.goto(address)
    status, cards = page.locator("#status"), page.locator("#molecules li")
    expect(status).to_have_text("13 molecules")
    assert page.get_by_text(HOSTILE).count() == 2  # a name, and the level of theory
    # By substructure.
    page.locator("#query").fill("[OX2H]")
    page.keyboard.press("Enter")
    expect(status).to_have_text("6 molecules")
    assert cards.locator(".code").all_inner_texts() == [
        "CCO", "Oc1ccccc1", "CC(=O)O", "OCC(O)CO", "CC(C)(C)O", "OCC1CC1",
    ]  # fmt: skip
    # By gap, both ways.
    orders = []
    for descending in ("", "1"):
        page.locator("#sort").select_option("gap")
        page.locator("#descending").select_option(descending)
        first = cards.first
        expect(status).to_have_text("6 molecules")
        expect(first).to_contain_text("gap")
        page.wait_for_load_state("networkidle")
        orders.append(cards.locator(".code").all_inner_texts())
    assert orders[0] == orders[1][::-1]
    # A mistake is explained, and can be mended.
    page.locator("#query").fill("c1ccc")
    page.keyboard.press("Enter")
    expect(page.locator("#error")).to_contain_text("unclosed ring")
    expect(cards).to_have_count(0)
    page.locator("#query").fill("OCC")
    page.locator("#kind").select_option("molecule")
    expect(status).to_have_text("1 molecule")
    expect(page.locator("#error")).to_be_hidden()
    assert not hacked(page)
    # The browser itself reports the refused question.
    assert [text for text in seen.complaints if "400 (Bad Request)" not in text] == []
    assert {url.split("/")[2] for url in seen.requests if not url.startswith("data:")} == {
        address.split("/")[2]
    }


def test_conformers_in_three_dimensions(
    visit: Callable[..., Visit], address: str, dataset: Dataset
) -> None:
    from playwright.sync_api import expect

    seen = visit(viewport=WIDE)
    page = seen.page
    page.goto(address + "?query=OCC(O)CO&kind=molecule")
    page.locator("#molecules button").first.click()
    dialog, viewer = page.locator("#molecule"), page.locator("#viewer")
    expect(dialog).to_have_attribute("data-shown", lowest(dataset, 6))
    assert page.url.endswith("#molecule=6")
    first = viewer.screenshot()
    # Something is drawn: an empty canvas compresses to next to nothing.
    page.evaluate("document.querySelector('#viewer canvas').style.visibility = 'hidden'")
    empty = viewer.screenshot()
    page.evaluate("document.querySelector('#viewer canvas').style.visibility = ''")
    assert len(first) > 2 * len(empty)
    # It turns when dragged.
    box = viewer.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 290, box["y"] + 200, steps=4)
    page.mouse.up()
    dragged = viewer.screenshot()
    assert dragged != first
    # By key as well.
    viewer.focus()
    page.keyboard.press("ArrowLeft")
    assert viewer.screenshot() != dragged
    # Another conformer has another picture and other labels.
    energy = page.locator("#labels tr").first.inner_text()
    turned = viewer.screenshot()
    chosen = page.locator("#conformer").input_value()
    page.locator("#conformer").select_option("1" if chosen != "1" else "2")
    expect(dialog).not_to_have_attribute("data-shown", lowest(dataset, 6))
    assert viewer.screenshot() != turned
    assert page.locator("#labels tr").first.inner_text() != energy
    assert "Hartree" in energy
    page.get_by_text("Atoms", exact=True).click()
    assert page.locator("#atoms tbody tr").count() == 14
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert seen.complaints == []


def test_browse_on_a_phone(visit: Callable[..., Visit], address: str, dataset: Dataset) -> None:
    from playwright.sync_api import expect

    seen = visit(viewport=PHONE, color_scheme="dark")
    seen.page.goto(address + "#molecule=12")  # without formula
    expect(seen.page.locator("#molecule")).to_have_attribute("data-shown", lowest(dataset, 12))
    expect(seen.page.locator("#picture")).to_have_text("no formula")
    assert fits(seen.page)
    assert seen.complaints == []
