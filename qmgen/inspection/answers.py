"""What the browser page asks for, as values that JSON knows."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from qmgen.dataset import OPTIONAL, SPLITS, Dataset
from qmgen.dataset.export import SYMBOLS
from qmgen.errors import InputError, MoleculeParseError
from qmgen.inspection.composition import formula
from qmgen.inspection.molecule_index import index_molecules
from qmgen.inspection.quantities import OF_ATOMS, OF_CONFORMERS, OF_ORBITALS, Quantity
from qmgen.inspection.report import level_of_theory
from qmgen.inspection.search import MAX_MATCHES, Search
from qmgen.molecules import depict
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

PAGE_SIZE = 24
_SCAN_SECONDS = 3.0
_KEPT_SEARCHES = 8
_COMPONENTS = ("dipole", "quadrupole")
_MATRICES = frozenset(name for name, field in OPTIONAL.items() if field.offset == "pair_offset")


class Answers:
    """Answers to the page's questions about one dataset; may be asked from several threads.

    Parameters
    ----------
    dataset : Dataset
        Store; it is read once to find each molecule's conformers.
    scan_seconds : float
        How long a search may look before it answers with what it has.
    """

    def __init__(self, dataset: Dataset, scan_seconds: float = _SCAN_SECONDS) -> None:
        self._dataset = dataset
        self._index = index_molecules(dataset)
        self._scan_seconds = scan_seconds
        self._searches: OrderedDict[tuple[str, str], Search] = OrderedDict()
        self._labels: dict[str, Float[np.ndarray, " nmol"]] = {}
        self._lock = threading.Lock()
        self._quantities = {q.name: q for q in OF_CONFORMERS if q.name in dataset.columns}

    def about(self) -> dict[str, Any]:
        """What there is to choose from."""
        counts = self._dataset.metadata.counts
        return {
            "name": self._dataset.path.name,
            "level": level_of_theory(self._dataset.metadata),
            "molecules": counts.molecules,
            "conformers": counts.conformers,
            "with_conformers": len(self._index),
            "splits": list(SPLITS),
            "charges": np.unique(self._index.charge).tolist(),
            "labels": [
                {"name": q.name, "title": q.title, "unit": q.unit}
                for q in self._quantities.values()
            ],
        }

    def molecules(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Give a page of molecules.

        Parameters
        ----------
        asked : mapping of str to str
            ``query`` and ``kind`` (see `Search`), ``split``, ``charge``, ``sort`` (a label),
            ``descending`` (1) and ``page`` (from 1); all of them optional.

        Returns
        -------
        dict
            The page's molecules, how many there are, and how far the search has come.

        Raises
        ------
        InputError
            One of them has an impossible value.
        """
        sort = self._quantity(asked.get("sort", ""))
        page = _whole(asked.get("page", "1"), "page")
        with self._lock:
            places, progress = self._matching(asked)
            if sort is not None:
                values = self._label(sort)[places]
                # Unknown ones come last in both directions.
                order = np.lexsort((-values if asked.get("descending") == "1" else values,))
                places = places[order]
        pages = max(1, -(-len(places) // PAGE_SIZE))
        page = min(max(page, 1), pages)
        shown = places[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        return {
            "total": len(places),
            "page": page,
            "pages": pages,
            "molecules": self._cards(shown, sort or self._quantities["gap"]),
            **progress,
        }

    def molecule(self, number: int) -> dict[str, Any]:
        """Give a molecule and its conformers, by the row of the molecule.

        Raises
        ------
        IndexError
            There is no such molecule, or it has no conformers.
        """
        rows = self._dataset.conformers_of(number)
        if not rows:
            raise IndexError(f"molecule {number} has no conformers")
        columns = ("smile", "source_id", "line", "charge", "spin", "split", "z")
        first = self._dataset.batch([rows.start], columns).row(0)
        block = self._dataset.batch(
            np.arange(rows.start, rows.stop), ("index", "energy", "converged")
        )
        energy = np.where(block["converged"], block["energy"], np.nan)
        known = np.isfinite(energy)
        above = (energy - (energy[known].min() if known.any() else 0.0)) * EV_PER_HARTREE
        return {
            "molecule": number,
            "smiles": first["smile"],
            "name": first["source_id"],
            "line": int(first["line"]),
            "charge": int(first["charge"]),
            "unpaired_electrons": int(first["spin"]),
            "split": first["split"],
            "composition": formula(first["z"]),
            "picture": _picture(first["smile"]),
            "conformers": [
                {
                    "row": row,
                    "number": int(number_made),
                    "converged": bool(converged),
                    "above_ev": _number(e),
                }
                for row, number_made, converged, e in zip(
                    rows, block["index"], block["converged"], above.tolist(), strict=True
                )
            ],
        }

    def conformer(self, row: int) -> dict[str, Any]:
        """Give a conformer's geometry and all its labels with their units.

        Raises
        ------
        IndexError
            There is no such row.
        """
        columns = [name for name in self._dataset.columns if name not in _MATRICES]
        block = self._dataset.batch([row], columns)
        symbols = [str(SYMBOLS[z]) if z < len(SYMBOLS) else "X" for z in block["z"].tolist()]
        positions = block["pos"] * ANGSTROM_PER_BOHR
        lines = [
            f"{symbol} {x:.6f} {y:.6f} {z:.6f}"
            for symbol, (x, y, z) in zip(symbols, positions.tolist(), strict=True)
        ]
        of_atoms = [q for q in OF_ATOMS if q.name in self._dataset.columns]
        table = np.column_stack([positions, *(q.values(block) for q in of_atoms)])
        return {
            "row": row,
            "xyz": "\n".join([str(len(symbols)), "", *lines, ""]),
            "converged": bool(block["converged"][0]),
            "labels": [
                {
                    "name": q.name,
                    "title": q.title,
                    "unit": q.unit,
                    "value": _number(q.values(block)[0]),
                    "components": _components(q, block[q.name][0])
                    if q.name in _COMPONENTS
                    else None,
                }
                for q in self._quantities.values()
            ],
            "atom_columns": [
                *({"title": axis, "unit": "Å"} for axis in "xyz"),
                *({"title": q.title, "unit": q.unit} for q in of_atoms),
            ],
            "atoms": [
                [symbol, *(_number(v) for v in values)]
                for symbol, values in zip(symbols, table.tolist(), strict=True)
            ],
            "orbitals": [
                {
                    "title": q.title,
                    "unit": q.unit,
                    "values": [_number(v) for v in q.values(block).tolist()],
                }
                for q in OF_ORBITALS
                if q.name in self._dataset.columns
            ],
        }

    def _matching(self, asked: Mapping[str, str]) -> tuple[Int64[np.ndarray, " n"], dict[str, Any]]:
        index = self._index
        query = asked.get("query", "").strip()
        places = np.arange(len(index))
        progress: dict[str, Any] = {"scanned": len(index), "of": len(index), "stopped": ""}
        if query:
            search = self._search(asked.get("kind", "substructure"), query)
            search.go_on(self._scan_seconds)
            places = search.found
            progress["scanned"] = search.scanned
            if search.full and not search.complete:
                progress["stopped"] = f"stopped at {MAX_MATCHES} matches"
            elif not search.complete:
                progress["stopped"] = f"stopped after {self._scan_seconds:g} seconds"
            progress["can_go_on"] = not (search.complete or search.full)
        if split := asked.get("split", ""):
            if split not in SPLITS:
                raise InputError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
            places = places[index.split[places] == SPLITS.index(split)]
        if charge := asked.get("charge", ""):
            places = places[index.charge[places] == _whole(charge, "charge")]
        return places, progress

    def _search(self, kind: str, query: str) -> Search:
        """Find a search that has begun, or begin one; the latest few are kept."""
        key = (kind, query)
        if key not in self._searches:
            self._searches[key] = Search(self._dataset, self._index, kind, query)
        self._searches.move_to_end(key)
        while len(self._searches) > _KEPT_SEARCHES:
            self._searches.popitem(last=False)
        return self._searches[key]

    def _quantity(self, name: str) -> Quantity | None:
        if name and name not in self._quantities:
            raise InputError(f"no label {name!r}; there are {', '.join(self._quantities)}")
        return self._quantities[name] if name else None

    def _label(self, quantity: Quantity) -> Float[np.ndarray, " nmol"]:
        """A label of the conformer that stands for each molecule; read once."""
        if quantity.name not in self._labels:
            block = self._dataset.batch(self._index.row, [quantity.name])
            self._labels[quantity.name] = quantity.values(block)
        return self._labels[quantity.name]

    def _cards(self, places: Int64[np.ndarray, " n"], shown: Quantity) -> list[dict[str, Any]]:
        columns = ["smile", "source_id", "z", shown.name]
        block = self._dataset.batch(self._index.row[places], columns)
        values = shown.values(block)
        cards = []
        for i, place in enumerate(places.tolist()):
            row = block.row(i)
            cards.append(
                {
                    "molecule": int(self._index.molecule[place]),
                    "smiles": row["smile"],
                    "name": row["source_id"],
                    "composition": formula(row["z"]),
                    "charge": int(self._index.charge[place]),
                    "split": SPLITS[self._index.split[place]],
                    "conformers": int(self._index.count[place]),
                    "label": {
                        "title": shown.title,
                        "unit": shown.unit,
                        "value": _number(values[i]),
                    },
                    "picture": _picture(row["smile"]),
                }
            )
        return cards


def _picture(smiles: str) -> str | None:
    try:
        return depict(smiles, 200, 140) if smiles else None
    except MoleculeParseError:
        return None


def _components(quantity: Quantity, value: np.ndarray) -> list[float | None]:
    return [_number(v) for v in (quantity.factor * np.asarray(value)).ravel().tolist()]


def _number(value: Any) -> float | None:
    """Turn NaN, which JSON lacks, into null."""
    return float(value) if np.isfinite(value) else None


def _whole(text: str, what: str) -> int:
    try:
        return int(text[:20])
    except ValueError as error:
        raise InputError(f"{what}: a whole number is expected, not {text[:40]!r}") from error
