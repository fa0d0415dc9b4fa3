"""Whatever a configuration holds, reading it gives one or one clear error, and no traceback."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.errors import QmgenError
from qmgen.generate import RunConfig, load_config
from tests.fuzzing import VALUES, damaged_bytes, damaged_json, fuzz, or_refused

_GOOD = RunConfig().model_dump(mode="json")
_TEXT = yaml.safe_dump(_GOOD).encode()


def _load(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(content)
        config = or_refused(path, lambda: load_config(path))
    if config is not None:
        assert RunConfig.model_validate(config.model_dump(mode="json")) == config
        config.notes()


def check_values(values: Any) -> None:
    _load(yaml.safe_dump(values).encode())


def _with_field(example: tuple[tuple[str, ...], Any]) -> dict[str, Any]:
    place, value = example
    return {place[0]: value} if len(place) == 1 else {place[0]: {place[1]: value}}


_PLACES = [(name,) for name in _GOOD]
_PLACES += [
    (n, inner) for n, section in _GOOD.items() if isinstance(section, dict) for inner in section
]

test_bytes_quick, test_bytes_slow = fuzz(_load, damaged_bytes([_TEXT]))
test_values_quick, test_values_slow = fuzz(check_values, damaged_json(_GOOD))
test_fields_quick, test_fields_slow = fuzz(
    check_values, st.tuples(st.sampled_from(_PLACES), VALUES).map(_with_field)
)


def check_command(example: tuple[bytes, bytes]) -> None:
    """A run comes as far as its cluster, which can't be had."""
    molecules, config = example
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "molecules.smi").write_bytes(molecules)
        (folder / "run.yaml").write_bytes(config)
        arguments = ["generate", "molecules.smi", "store", "--config", "run.yaml", "--scheduler"]
        arguments = [str(folder / a) if "." in a or a == "store" else a for a in arguments]
        done = CliRunner().invoke(app, [*arguments, "nonsense://"])
    # `main` prints the one and raises the other.
    assert isinstance(done.exception, QmgenError | SystemExit), done.exception
    assert done.exit_code != 0


test_command_quick, test_command_slow = fuzz(
    check_command,
    st.tuples(damaged_bytes([b"CCO ethanol\nC#N\n"]), damaged_bytes([b"dft: {basis: sto-3g}\n"])),
)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "- " * 3000,
        "{" * 3000,
        "? [a]\n: 1",
        "1: 2",
        "!!x a",
        "seed: 2001-99-99",
        "seed: !!int ''",
        "seed: !!bool x",
        "seed: !!timestamp x",
    ],
)
def test_yaml_that_is_hard_to_swallow(text: str) -> None:
    _load(text.encode())
