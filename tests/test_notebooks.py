"""The notebooks run from top to bottom, and are kept with their output."""

from pathlib import Path

import nbformat
import pytest

from notebooks.execute import executed

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000


# `make notebooks` runs them as well.
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    executed(path, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_as_it_ran(path: Path) -> None:
    """From top to bottom in one go, without an error or a warning, and small."""
    assert path.stat().st_size < MOST_BYTES
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


def test_there_is_a_tutorial() -> None:
    assert {"first_labels", "reading-a-dataset", "how-good-are-the-labels"} <= {
        path.stem for path in NOTEBOOKS
    }
