"""Stores of real molecules and geometries with made-up labels, and a browser to look at pages."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmgen.dataset import (
    Dataset,
    Failure,
    ImportedLabels,
    MoleculeRecord,
    Provenance,
    collect_provenance,
    empty_conformers,
    open_dataset,
    write_store,
)
from qmgen.errors import QmgenError
from qmgen.molecules import ConformerConfig, embed_conformers, molecule_from_smiles
from qmgen.units import BOHR_PER_ANGSTROM

HOSTILE = "<script>window.hacked = 1</script>"
HOSTILE_TOO = '"><img src=x onerror="window.hacked = 1">'
SMILES = (
    "CCO",
    "c1ccccc1O",
    "CC(=O)O",
    "CCCCC",
    "C#N",
    "[NH4+]",
    "OCC(O)CO",
    "CC(C)(C)O",
    "c1ccncc1",
    "C1CC1CO",
    "CC(=O)N",
    "FC(F)C",
)


def record(smiles: str, line: int, nconf: int = 4, name: str = "") -> MoleculeRecord:
    """A molecule with embedded conformers, forces and random labels."""
    molecule = molecule_from_smiles(smiles)
    positions = embed_conformers(molecule, ConformerConfig(per_molecule=nconf), 0)
    nconf, nat, _ = positions.shape
    nao = int(np.where(molecule.atomic_numbers == 1, 1, 5).sum())
    values = empty_conformers(nat, nao, nconf, ("forces",))
    rng = np.random.default_rng(line)
    for array in values.values():
        if array.dtype == np.float64:
            array[...] = rng.normal(scale=0.2, size=array.shape)
    values["index"][:] = np.arange(nconf)
    values["pos"][...] = positions * BOHR_PER_ANGSTROM
    values["energy"][:] = -2.0 * molecule.atomic_numbers.sum() + rng.normal(0, 0.01, nconf)
    values["homo"][:] = rng.uniform(-0.4, -0.2, nconf)
    values["lumo"][:] = rng.uniform(0.0, 0.2, nconf)
    values["gap"][:] = values["lumo"] - values["homo"]
    values["std"][:] = 10.0 ** rng.uniform(-7, -4, nconf)
    values["converged"][:] = True
    values["iterations"][:] = rng.integers(7, 20, nconf)
    values["attempts"][:] = 1
    return MoleculeRecord(
        line=line,
        source_id=name or f"molecule {line}",
        smile=molecule.smiles,
        charge=molecule.charge,
        spin=molecule.spin,
        z=molecule.atomic_numbers.astype(np.uint8),
        nao=nao,
        conformers=values,
    )


def some_records() -> list[MoleculeRecord]:
    """Twelve molecules and an unnamed one, with what can go wrong with labels."""
    records = [record(smiles, line) for line, smiles in enumerate(SMILES, start=1)]
    records[0] = replace(records[0], source_id=HOSTILE)
    records[1] = replace(records[1], source_id=HOSTILE_TOO)
    records[2].conformers["converged"][0] = False
    for name in ("lumo", "gap"):
        records[3].conformers[name][:] = np.nan
    return [*records, replace(record("CCN", 13), smile="", source_id="no formula")]


FAILURES = [
    Failure(20, HOSTILE, HOSTILE, -1, "read", f"SMILES {HOSTILE!r} does not parse"),
    Failure(21, "", "CCBr", -1, "embed", "CCBr: no conformer in 100 attempts"),
    Failure(22, "", "CCI", -1, "embed", "CCI: no conformer in 200 attempts"),
    Failure(23, "x", "CCO", 5, "label", "not converged after 50 cycles"),
]

Write = Callable[..., Dataset]
_TIMEOUT = 30_000  # ms
_NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


@pytest.fixture(scope="session")
def provenance(tmp_path_factory: pytest.TempPathFactory) -> Provenance:
    source = tmp_path_factory.mktemp("source") / "input.smi"
    source.write_text("CC\n", encoding="utf-8")
    dft = {"functional": "b3lyp", "basis": HOSTILE, "grid_level": 1}
    return collect_provenance(
        config={"dft": dft, "conformers": {"per_molecule": 4}},
        seed=1,
        source=source,
        command=f"qmgen generate {HOSTILE}",
    )


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory, provenance: Provenance) -> Write:
    """Write records to a fresh store."""

    def make(records: list[MoleculeRecord], **options: Any) -> Dataset:
        path = tmp_path_factory.mktemp("stores") / "some molecules.zarr"
        settings = {"split_seed": 1, "optional_labels": ("forces",), **options}
        failures = settings.pop("failures", [])
        write_store(path, records, failures, settings.pop("provenance", provenance), **settings)
        return open_dataset(path)

    return make


@pytest.fixture(scope="session")
def dataset(write: Write) -> Dataset:
    return write(
        some_records(), failures=FAILURES, notes=[f"mind {HOSTILE}"], rejected={HOSTILE: 2}
    )


@pytest.fixture(scope="session")
def molecules(dataset: Dataset) -> list[dict[str, Any]]:
    """What the reader says of each molecule."""
    return [dataset.molecule(i) for i in range(dataset.num_molecules)]


@pytest.fixture(scope="session")
def imported(write: Write, provenance: Provenance) -> Dataset:
    """One conformer a molecule, labels not known but the energy."""
    records = [record(smiles, line, 1) for line, smiles in enumerate(SMILES, start=1)]
    records = [replace(r, nao=0, conformers=_energy_only(r)) for r in records]
    origin = ImportedLabels(
        dataset="Some data", program="a program", level_of_theory="a level", reference="a paper",
        license="CC0",
    )  # fmt: skip
    about = provenance.model_copy(update={"imported": origin, "hardware": None})
    return write(records, provenance=about, optional_labels=(), split_fractions=(1.0, 0.0, 0.0))


def _energy_only(given: MoleculeRecord) -> dict[str, np.ndarray]:
    values = empty_conformers(given.z.size, 0, 1)
    for name, array in values.items():
        if name in ("index", "energy", "pos", "converged"):
            array[...] = given.conformers[name]
        elif array.dtype == np.float64:
            array[...] = np.nan
    return values


@pytest.fixture(scope="session")
def failed(write: Write) -> Dataset:
    """A store of failures alone."""
    return write([], failures=FAILURES)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(names)}")
    # Root has no sandbox in a container; SwiftShader draws WebGL without a graphics card.
    switches = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    # A busy machine is no failure.
    playwright.expect.set_options(timeout=_TIMEOUT)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=switches)
        yield browser
        browser.close()


class Visit:
    """A page that is open, and all that it complained of or asked for."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_TIMEOUT)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Open pages, each in a context of its own."""
    visits: list[Visit] = []

    def make(**options: Any) -> Visit:
        visits.append(Visit(chromium, **options))
        return visits[-1]

    yield make
    for one in visits:
        one.context.close()


def log_line(seconds: float, event: str, process: int = 7, **values: Any) -> str:
    """A line of a run's log, as `qmgen generate --log` writes it."""
    time = datetime.fromtimestamp(_NEW_YEAR + seconds, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "event": event, "process": process, **values}) + "\n"


def write_log(path: Path, dataset: Dataset) -> Path:
    """Log of a run of `dataset` in batches of two conformers, a minute each, interrupted once.

    Twelve minutes of the first attempt, a pause of an hour, then the rest.
    """
    start = {"output": f"elsewhere/{dataset.path.name}", "input": HOSTILE, "molecules": 13}
    failure = {"line": 3, "stage": "label", "reason": HOSTILE}
    lines = [log_line(0, "start", **start)]
    pause, batches = 0.0, -(-len(dataset) // 2)
    for number in range(batches):
        if number == 12:
            pause = 3600.0
            lines.append(log_line(720 + pause, "start", **start))
        conformers = min(2, len(dataset) - 2 * number)
        values = {"batch": number, "conformers": conformers, "failures": [failure] * (number == 5)}
        # The first one is quick.
        at = 60.0 * (number + 1) + pause if number else 10.0
        lines.append(log_line(at, "batch", **values))
    lines.append(log_line(60.0 * batches + pause, "end", output=start["output"]))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def fails(call: Callable[[], object]) -> str:
    """Message of the error that a call must raise."""
    with pytest.raises(QmgenError) as caught:
        call()
    return str(caught.value)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")
