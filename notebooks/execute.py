"""Runs notebooks and keeps what they show; ``make notebooks`` does it for all of them, in place."""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom, in a folder of its own.

    Raises
    ------
    CellExecutionError
        A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    # Times would differ from run to run.
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    # The release of Python that it happened to run on.
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Run those that are named, or all, and write them with their output."""
    here = Path(__file__).parent
    for path in [Path(name) for name in sys.argv[1:]] or sorted(here.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    main()
