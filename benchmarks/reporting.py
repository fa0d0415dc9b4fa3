"""What benchmarks show: tables in Markdown, and plots."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import matplotlib.pyplot as plt


def table(header: list[str], rows: Iterable[list[str]]) -> None:
    """Print a table row by row, as they are computed."""
    for row in chain((header, ["---"] * len(header)), rows):
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def save_plot(figure: Path) -> None:
    """Write the current plot to a file, and close it."""
    plt.tight_layout()
    plt.savefig(figure, dpi=120)
    plt.close()
