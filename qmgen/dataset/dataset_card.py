"""The README of an exported dataset: what it holds, at which level of theory, in which units."""

from collections.abc import Mapping, Sequence

import yaml

from qmgen.dataset.metadata import Provenance
from qmgen.dataset.reader import Dataset
from qmgen.dataset.schema import COLUMNS

_QM1B = """\
@inproceedings{mathiasen2023generating,
  title = {Generating {QM1B} with {PySCF}$_{\\text{IPU}}$},
  author = {Mathiasen, Alexander and Helal, Hatem and Klaser, Kerstin and Balanca, Paul and Dean,
    Josef and Luschi, Carlo and Beaini, Dominique and Fitzgibbon, Andrew and Masters, Dominic},
  booktitle = {Advances in Neural Information Processing Systems 36, Datasets and Benchmarks Track},
  year = {2023}
}"""
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
_SIZES |= {10**7: "1M<n<10M", 10**8: "10M<n<100M", 10**9: "100M<n<1B"}


def dataset_card(
    dataset: Dataset, columns: Sequence[str], counts: Mapping[str, int], license_id: str
) -> str:
    """Give the text of the card, its YAML header included.

    Parameters
    ----------
    dataset : Dataset
        What was exported.
    columns : sequence of str
        Columns of the files.
    counts : mapping of str to int
        Rows of each split, by the name of its files; one without rows has no file.
    license_id : str
        Licence as the Hub names it.
    """
    metadata = dataset.metadata
    total = sum(counts.values())
    theory = level_of_theory(metadata.provenance)
    header = {
        "pretty_name": f"{dataset.path.stem}: {theory}",
        "license": license_id,
        "tags": ["chemistry", "molecules", "quantum chemistry", "density functional theory"],
        "size_categories": [next((t for n, t in _SIZES.items() if total < n), "n>1B")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": name, "path": f"data/{name}-*.parquet"}
                    for name, number in counts.items()
                    if number
                ],
            }
        ],
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {dataset.path.stem}",
        f"{total} converged conformers of {metadata.counts.molecules} molecules, labelled with "
        f"{theory}. Molecules are split, not conformers.",
        _table(("split", "conformers"), [(name, str(n)) for name, n in counts.items()]),
        "## Columns",
        "One row a conformer, in atomic units. Columns of QM1B hold the same quantity as "
        "here, some of them in eV.",
        _table(
            ("column", "unit", "QM1B", "description"),
            [
                (f"`{name}`", COLUMNS[name].unit, COLUMNS[name].qm1b or "", _cell(name))
                for name in columns
            ],
        ),
        "## Origin",
        "\n".join(f"- {line}" for line in _origin(metadata.provenance, license_id)),
        *("\n".join(f"- {note}" for note in metadata.notes) for _ in metadata.notes[:1]),
        "## Citation",
        "The recipe and the format are those of QM1B:",
        f"```bibtex\n{_QM1B}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def level_of_theory(provenance: Provenance) -> str:
    """Name functional and basis, such as ``b3lyp/sto-3g``; of imported labels, what they state."""
    if provenance.imported is not None:
        return f"{provenance.imported.program}, {provenance.imported.level_of_theory}"
    dft = provenance.config.get("dft")
    if isinstance(dft, dict) and {"functional", "basis"} <= set(dft):
        return f"{dft['functional']}/{dft['basis']}"
    return "a level of theory that its configuration states"


def _origin(provenance: Provenance, license_id: str) -> list[str]:
    lines = [
        f"input file: {provenance.source.name}, SHA-256 {provenance.source.sha256}",
        f"seed: {provenance.seed}",
        f"configuration: {provenance.config}",
        f"SHA-256 of the configuration: {provenance.config_hash}",
        "versions: " + ", ".join(f"{name} {v}" for name, v in provenance.versions.items()),
    ]
    if provenance.imported is not None:
        origin = provenance.imported
        lines += [
            f"labels: imported from {origin.dataset}, {origin.reference}",
            f"licence of {origin.dataset}: {origin.license}",
        ]
    if license_id == "unknown":
        lines.append("licence: not stated by whoever exported this")
    return lines


def _cell(name: str) -> str:
    return COLUMNS[name].description.replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
