"""A dataset on one page that needs no other file."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool
from markupsafe import Markup

from qmgen.dataset import SPLITS, Batch, Dataset, StoreMetadata
from qmgen.dataset.export import SYMBOLS
from qmgen.dataset.output import check_output, replace_file
from qmgen.dataset.validation import ValidationReport
from qmgen.errors import MoleculeParseError
from qmgen.inspection.charts import (
    Point,
    bar_chart,
    colour_legend,
    histogram_chart,
    number_text,
    scatter_chart,
)
from qmgen.inspection.chemical_space import principal_plane
from qmgen.inspection.composition import composition, composition_residual, formula
from qmgen.inspection.conformers import conformer_spread
from qmgen.inspection.failures import group_failures
from qmgen.inspection.histogram import Histogram, histogram
from qmgen.inspection.quantities import OF_ATOMS, OF_CONFORMERS, OF_ORBITALS
from qmgen.inspection.run_history import RunHistory
from qmgen.inspection.sampling import sample_of, sample_rows
from qmgen.inspection.throughput import run_section
from qmgen.molecules import depict, morgan_fingerprints
from qmgen.units import EV_PER_HARTREE

# What bounds time, memory and the size of the page on a large store.
_CONFORMERS = 20_000
_MAP_MOLECULES = 600
_SPREAD_MOLECULES = 40
_CARDS = 18
_FAILURES = 100_000
_OF_THE_SCF = ("iterations", "attempts", "std", "energy_change")


def write_report(
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    validation: ValidationReport | None = None,
    history: RunHistory | None = None,
    seed: int = 0,
) -> None:
    """Write what there is to see of a dataset as one HTML page.

    Large stores are sampled; the page states the sizes of its samples.

    Parameters
    ----------
    dataset : Dataset
        Store.
    out : path
        File to make or make anew; its name ends in .html.
    validation : ValidationReport, optional
        Agreement with PySCF to show.
    history : RunHistory, optional
        How fast the run went, to show.
    seed : int
        Of the samples.

    Raises
    ------
    InputError
        The file can't be made.
    """
    path = Path(out)
    check_output(path, ".html")
    page = render_report(dataset, validation=validation, history=history, seed=seed)
    replace_file(path, page)


def render_report(
    dataset: Dataset,
    *,
    validation: ValidationReport | None = None,
    history: RunHistory | None = None,
    seed: int = 0,
) -> str:
    """Give the page that `write_report` writes, as text."""
    sample = dataset.batch(sample_rows(len(dataset), _CONFORMERS, seed), _columns(dataset))
    formulas = _Formulas()
    figures = list(_figures(dataset, sample))
    page = _environment().get_template("report.html")
    return page.render(
        name=dataset.path.name,
        about=dataset.metadata,
        level=level_of_theory(dataset.metadata),
        provenance=_provenance(dataset.metadata),
        configuration=list(_flat("", dataset.metadata.provenance.config)),
        version=_version(),
        seed=seed,
        sample=len(sample),
        converged=int(sample["converged"].sum()),
        splits=_splits(sample),
        cards=_cards(sample, formulas, seed),
        figures=[f for f in figures if f.data is not None and f.name not in _OF_THE_SCF],
        scf=[f for f in figures if f.data is not None and f.name in _OF_THE_SCF],
        without=[f.title for f in figures if f.data is None],
        composition=_composition(sample),
        space=_space(sample, formulas, seed),
        spread=_spread(dataset, sample, formulas, seed),
        failures=_failures(dataset),
        run=None if history is None else run_section(history),
        validation=validation,
        # Rendering reads it after everything has been drawn.
        formulas=formulas.drawn,
    )


def level_of_theory(about: StoreMetadata) -> str:
    """Say in one line how the labels were computed."""
    if about.provenance.imported is not None:
        return about.provenance.imported.level_of_theory
    dft = about.provenance.config.get("dft")
    if not isinstance(dft, Mapping):
        return "see the configuration"
    parts = [f"{dft.get('functional')}/{dft.get('basis')}"]
    if "grid_level" in dft:
        parts.append(f"grid level {dft['grid_level']}")
    if "precision" in dft:
        parts.append(f"{dft['precision']} precision")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Figure:
    """A distribution that the page shows; `data` is None where no value is known."""

    name: str
    title: str
    unit: str
    data: Histogram | None

    @property
    def chart(self) -> Markup:
        assert self.data is not None
        return histogram_chart(self.data, self.title, self.unit)


class _Formulas:
    """Structural formulas of the page, each drawn once."""

    def __init__(self) -> None:
        self.drawn: list[Markup] = []
        self._number: dict[str, int | None] = {}

    def number(self, smiles: str) -> int | None:
        """Place of a molecule's formula in `drawn`; None if it can't be drawn."""
        if smiles not in self._number:
            picture = _picture(smiles)
            self._number[smiles] = None if picture is None else len(self.drawn)
            self.drawn += [] if picture is None else [picture]
        return self._number[smiles]


def _picture(smiles: str) -> Markup | None:
    if not smiles:
        return None
    try:
        return Markup(depict(smiles, 180, 130))
    except MoleculeParseError:
        return None


def _columns(dataset: Dataset) -> list[str]:
    wanted = ["molecule", "smile", "source_id", "charge", "split", "z", "converged"]
    wanted += [q.name for q in (*OF_CONFORMERS, *OF_ATOMS, *OF_ORBITALS)]
    return [name for name in wanted if name in dataset.columns]


def _environment() -> jinja2.Environment:
    folder = resources.files("qmgen.inspection") / "pages"

    def page(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(page),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number_text
    environment.globals["source"] = lambda name: Markup(page(name))
    return environment


def _figures(dataset: Dataset, sample: Batch) -> Iterator[_Figure]:
    """Distributions over converged conformers; of what tells how the SCF went, over all."""
    converged = sample["converged"]
    yield _Figure(
        "residual",
        "energy beyond a linear fit on composition",
        "eV",
        histogram(_residual(sample)[converged]),
    )
    repeats: list[tuple[tuple[Any, ...], Any]] = [
        (OF_CONFORMERS, np.ones(len(sample), dtype=np.int64)),
        (OF_ATOMS, sample.n_atoms),
        (OF_ORBITALS, np.diff(sample.orbital_offset)),
    ]
    for quantities, repeat in repeats:
        shown: Bool[np.ndarray, " n"] = np.repeat(converged, repeat)
        for q in quantities:
            if q.name in dataset.columns:
                values = q.values(sample)
                data = histogram(values if q.name in _OF_THE_SCF else values[shown], q.scale)
                yield _Figure(q.name, q.title, q.unit, data)


def _residual(sample: Batch) -> np.ndarray:
    energy = np.where(sample["converged"], sample["energy"], np.nan)
    counts = composition(sample["z"], sample.atom_offset).counts
    return composition_residual(counts, sample["charge"], energy) * EV_PER_HARTREE


def _first_rows(sample: Batch) -> np.ndarray:
    """One place of the sample for each molecule in it."""
    return np.unique(sample["molecule"], return_index=True)[1]


def _splits(sample: Batch) -> list[tuple[str, int, int]]:
    """Molecules and conformers of the sample by split."""
    molecules = Counter(sample["split"][_first_rows(sample)].tolist())
    conformers = Counter(sample["split"].tolist())
    return [(name, molecules[name], conformers[name]) for name in SPLITS]


def _cards(sample: Batch, formulas: _Formulas, seed: int) -> list[dict[str, Any]]:
    cards = []
    for i in sample_of(_first_rows(sample), _CARDS, seed).tolist():
        row = sample.row(i)
        cards.append(
            {
                "formula": formulas.number(row["smile"]),
                "smiles": row["smile"],
                "name": row["source_id"],
                "composition": formula(row["z"]),
                "charge": int(row["charge"]),
                "gap": float(row["gap"]) * EV_PER_HARTREE,
            }
        )
    return cards


def _composition(sample: Batch) -> dict[str, Any] | None:
    first = _first_rows(sample)
    if not first.size:
        return None
    found = composition(sample["z"], sample.atom_offset)
    counts = found.counts[first]
    symbols = [str(SYMBOLS[z]) if z < len(SYMBOLS) else str(z) for z in found.elements.tolist()]
    heavy = found.heavy[first]
    sizes = np.arange(heavy.min(), heavy.max() + 1)
    return {
        "molecules": first.size,
        "elements": bar_chart(symbols, (counts > 0).sum(axis=0).tolist(), "molecules with element"),
        "heavy": bar_chart(
            [str(size) for size in sizes],
            [int((heavy == size).sum()) for size in sizes],
            "molecules by number of heavy atoms",
        ),
        "atoms": list(zip(symbols, counts.sum(axis=0).tolist(), strict=True)),
    }


def _space(sample: Batch, formulas: _Formulas, seed: int) -> dict[str, Any] | None:
    """Map of molecules whose formula can be drawn; None with fewer than three."""
    chosen = [
        i
        for i in sample_of(_first_rows(sample), _MAP_MOLECULES, seed).tolist()
        if formulas.number(sample["smile"][i]) is not None
    ]
    if len(chosen) < 3:
        return None
    smiles = sample["smile"][chosen].tolist()
    places, explained = principal_plane(morgan_fingerprints(smiles))
    gap = sample["gap"][chosen] * EV_PER_HARTREE
    known = gap[np.isfinite(gap)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    points = [
        Point(
            x,
            y,
            f"{text}\ngap {number_text(e)} eV" if np.isfinite(e) else f"{text}\ngap not known",
            (e - low) / (high - low) if np.isfinite(e) and high > low else None,
            formulas.number(text),
        )
        for (x, y), text, e in zip(places.tolist(), smiles, gap.tolist(), strict=True)
    ]
    label = f"Map of {len(points)} molecules by their fingerprints' first two principal components"
    titles = [f"component {i + 1} ({100 * part:.1f} %)" for i, part in enumerate(explained)]
    return {
        "molecules": len(points),
        "chart": scatter_chart(points, titles[0], titles[1], label),
        "legend": colour_legend(low, high, "HOMO-LUMO gap (eV)") if high > low else "",
        "explained": float(explained.sum()),
    }


def _spread(
    dataset: Dataset, sample: Batch, formulas: _Formulas, seed: int
) -> dict[str, Any] | None:
    molecules, counts = np.unique(sample["molecule"][sample["converged"]], return_counts=True)
    chosen = sample_of(molecules[counts > 1], _SPREAD_MOLECULES, seed)
    found = [s for m in chosen.tolist() if (s := conformer_spread(dataset, m)) is not None]
    points = [
        Point(
            rmsd,
            energy,
            f"{s.smiles or f'molecule {s.molecule}'}\n{number_text(energy)} eV, "
            f"{number_text(rmsd)} Å",
            formula=formulas.number(s.smiles),
        )
        for s in found
        for rmsd, energy in zip(s.rmsd_angstrom.tolist(), s.energy_ev.tolist(), strict=True)
        if (rmsd, energy) != (0.0, 0.0)
    ]
    if not points:
        return None
    label = f"Energy above the lowest conformer against distance to it, {len(found)} molecules"
    chart = scatter_chart(
        points,
        "heavy-atom RMSD to the lowest conformer (Å)",
        "energy above it (eV)",
        label,
        from_zero=True,
    )
    return {
        "molecules": len(found),
        "conformers": sum(s.energy_ev.size for s in found),
        "chart": chart,
        "median": float(np.median([s.energy_ev.max() for s in found])),
    }


def _failures(dataset: Dataset) -> dict[str, Any]:
    total = dataset.metadata.counts.failures
    groups = [
        {"group": g, "examples": [(e, _picture(e.smile)) for e in g.examples]}
        for g in group_failures(dataset, _FAILURES)
    ]
    return {"total": total, "read": min(total, _FAILURES), "groups": groups}


def _provenance(about: StoreMetadata) -> list[tuple[str, str]]:
    """Flatten what the store says of its origin to names and values."""
    content = about.provenance.model_dump(mode="json", exclude_none=True, exclude={"config"})
    return [("created", about.created), *_flat("", content)]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list):
        yield prefix, ", ".join(str(item) for item in value) or "none"
    else:
        yield prefix, "none" if value in (None, {}) else str(value)


def _version() -> str:
    try:
        return metadata.version("qmgen")
    except metadata.PackageNotFoundError:
        return "from a checkout"
