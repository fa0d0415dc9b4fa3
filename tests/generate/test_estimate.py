"""Estimates of a run: counts of its plan, sizes of its files; times are shown by a benchmark."""

from pathlib import Path

import pytest

from qmgen.dataset import open_dataset
from qmgen.errors import InputError
from qmgen.generate import estimate_run, generate, load_config
from qmgen.generate.config import RunConfig
from tests.generate.runs import Command, write_smiles

SMILES = ["C", "CC", "CCC", "CCO", "CO", "N", "O", "CN", "C=O", "OCC=O", "C1CC1", "CC#N"]


def config_of(per_molecule: int) -> RunConfig:
    return load_config(
        None,
        {
            "": {"method": "mmff94"},
            "labels": {"forces": True},
            "conformers": {"per_molecule": per_molecule},
            "cluster": {"workers": 1},
        },
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_smiles(tmp_path / "molecules.smi", dict.fromkeys([*SMILES, "C1CC"], ""))


def test_counts_and_bytes_are_those_of_the_run(source: Path, tmp_path: Path) -> None:
    """A store's files depend little on which of these molecules they hold: within a third."""
    config = config_of(200)
    expected = estimate_run(source, config)
    counts = generate(source, tmp_path / "store", config).metadata.counts
    assert (expected.molecules, expected.rejected) == (len(SMILES), 1)
    assert expected.conformers == counts.conformers == 200 * len(SMILES)
    dataset = open_dataset(tmp_path / "store")
    files = [p for p in (dataset.path / "conformers").rglob("*") if p.name != "zarr.json"]
    size = sum(path.stat().st_size for path in files if path.is_file())
    assert expected.store_bytes == pytest.approx(size, rel=1 / 3)
    assert expected.working_bytes > expected.store_bytes
    assert expected.label_core_seconds > 0
    # Ten seconds for workers to start, and then each takes its part.
    one, four = expected.wall_seconds(1), expected.wall_seconds(4)
    assert one - 10 == pytest.approx(4 * (four - 10)) == pytest.approx(3600 * expected.core_hours)


def test_sizes_between_those_that_were_timed(tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "small.smi", dict.fromkeys(["[He]", "[H][H]", "O", "N"], ""))
    config = load_config(
        None,
        {
            "conformers": {"per_molecule": 2},
            "dft": {"functional": "hf", "basis": "sto-3g", "grid_level": 0},
        },
    )
    one, every = (estimate_run(source, config, sample=n) for n in (1, 100))
    assert one.programs == every.programs == every.calibrated > one.calibrated == 1
    assert one.conformers == every.conformers == 8
    assert one.label_core_seconds > 0


def test_nothing_that_can_be_labelled(tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "helium.smi", {"[He]": "", "[Ne]": ""})
    with pytest.raises(InputError, match="none of the molecules of the calibration"):
        estimate_run(source, config_of(2))


def test_the_command(qmgen: Command, source: Path) -> None:
    done = qmgen("plan", source, "--conformers", 2, "--method", "mmff94", "--workers", 3)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "12 molecules, 24 conformers, 1 compiled programs of which 1 were timed" in text
    assert "core-hours" in text
    assert "with 3 workers of one core" in text
