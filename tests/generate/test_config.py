"""Configurations: what is refused and how, what overrides what, what counts as science."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from qmgen.dataset import OPTIONAL, config_hash, schema_text
from qmgen.errors import ConfigError
from qmgen.generate import RunConfig, load_config
from qmgen.generate.config import LabelConfig
from tests.generate.runs import ROOT, write_yaml

SCHEMA = ROOT / "schemas" / "run-config.schema.json"
# The others are for training, see tests/training.
WORKFLOWS = sorted(
    path
    for path in (ROOT / "workflows").glob("*.yaml")
    if "qmgen generate" in path.read_text(encoding="utf-8")
)

BAD = {
    "indentation": (b"dft:\n  basis: sto-3g\n grid_level: 0\n", ["line 3", "column"]),
    "tabulator": (b"seed: 1\n\tbatch_conformers: 2\n", ["line 2"]),
    "unclosed": (b"conformers: {per_molecule: 8\n", ["line 2"]),
    "not UTF-8": (b"seed: \xff\n", ["utf-8"]),
    "control character": (b"seed: \x07\n", ["YAML"]),
    "list": (b"- seed\n- 1\n", ["mapping", "list"]),
    "word": (b"b3lyp\n", ["mapping", "str"]),
    "unknown key": (b"sead: 1\n", ["sead", "run-config.schema.json"]),
    "unknown nested key": (b"dft: {functionl: b3lyp}\n", ["dft.functionl"]),
    "word for number": (b"seed: many\n", ["seed", "'many'", "integer"]),
    "fraction for number": (b"conformers: {per_molecule: 2.5}\n", ["conformers.per_molecule"]),
    "number for section": (b"dft: 3\n", ["dft", "3"]),
    "unquoted time": (b"cluster: {slurm: {walltime: 12:00:00}}\n", ["walltime", "string"]),
    "out of range": (b"batch_conformers: 0\n", ["batch_conformers", "greater than or equal to 1"]),
    "unknown basis": (b"dft: {basis: sto-9g}\n", ["dft.basis", "'sto-9g'", "STO-3G"]),
    "unknown functional": (b"dft: {functional: b3lpy}\n", ["b3lpy", "b3lyp", "pbe0"]),
    "unknown precision": (b"dft: {precision: half}\n", ["dft.precision", "float64", "'half'"]),
    "grid response of no forces": (
        b"labels: {forces_grid_response: true}\n",
        ["labels", "only used with forces"],
    ),
    "unknown dispersion": (b"labels: {dispersion: d5}\n", ["labels.dispersion", "d3bj", "d4"]),
    "unknown method": (b"method: mp2\n", ["method", "'dft'", "'mp2'"]),
    "matrices of a force field": (
        b"method: mmff94\nlabels: {fock_matrix: true}\n",
        ["mmff94", "no labels but energies and forces"],
    ),
    "too little memory": (b"cluster: {worker_memory: 10MB}\n", ["worker_memory", "256 MiB"]),
    "memory without a unit that is one": (b"cluster: {worker_memory: 4XB}\n", ["worker_memory"]),
    "shares": (b"split: {fractions: [0.8, 0.1, 0.2]}\n", ["split.fractions", "sum 1"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_explained(name: str, tmp_path: Path) -> None:
    text, fragments = BAD[name]
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for fragment in fragments:
        assert fragment in message


def test_missing_files_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(ConfigError, match="can't read the configuration") as caught:
            load_config(path)
        assert str(path) in str(caught.value)


def test_bad_options_are_explained() -> None:
    with pytest.raises(ConfigError, match=r"^command line: dft\.basis: unknown basis 'nonsense'"):
        load_config(None, {"dft": {"basis": "nonsense"}})


def test_option_for_a_section_that_is_none(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "run.yaml", {"dft": 3})
    with pytest.raises(ConfigError, match="dft must be a mapping, not 3"):
        load_config(path, {"dft": {"basis": "sto-3g"}})


def test_the_command_line_beats_the_file(tmp_path: Path) -> None:
    path = write_yaml(
        tmp_path / "run.yaml",
        {"seed": 3, "dft": {"functional": "pbe", "basis": "6-31g"}, "batch_conformers": 5},
    )
    overrides: dict[str, dict[str, Any]] = {
        "": {"seed": 4},
        "dft": {"functional": None, "basis": "sto-3g"},
        "cluster": {"workers": 2},
    }
    config = load_config(path, overrides)
    assert (config.seed, config.batch_conformers, config.cluster.workers) == (4, 5, 2)
    assert (config.dft.functional, config.dft.basis) == ("pbe", "sto-3g")
    assert load_config(path).dft.basis == "6-31g"


def test_no_file_and_an_empty_file_give_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing yet\n", encoding="utf-8")
    assert load_config(None) == load_config(empty) == RunConfig()


def test_science_is_all_but_the_cluster() -> None:
    config = load_config(None, {"cluster": {"workers": 3}, "dft": {"functional": "hf"}})
    assert set(config.science()) == set(RunConfig.model_fields) - {"cluster", "method", "storage"}
    assert RunConfig.model_validate(config.science()) == load_config(
        None, {"dft": {"functional": "hf"}}
    )


def test_a_force_field_has_no_level_of_theory() -> None:
    config = load_config(None, {"": {"method": "mmff94"}, "dft": {"functional": "hf"}})
    assert set(config.science()) == set(RunConfig.model_fields) - {"cluster", "dft", "storage"}
    assert config.science() == load_config(None, {"": {"method": "mmff94"}}).science()


def test_equal_configurations_have_equal_hashes(tmp_path: Path) -> None:
    one = tmp_path / "one.yaml"
    one.write_text("seed: 2\ndft: {functional: B3LYP, grid_level: 1}\n", encoding="utf-8")
    other = tmp_path / "other.yaml"
    other.write_text(
        "cluster: {workers: 7}\ndft:\n  grid_level: 1\n  functional: b3lyp\nseed: 2\n",
        encoding="utf-8",
    )
    hashes = {config_hash(load_config(path).science()) for path in (one, other)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_conformers": 63},
        {"conformers": {"per_molecule": 7}},
        {"conformers": {"relax": "mmff94"}},
        {"dft": {"functional": "hf"}},
        {"dft": {"basis": "6-31g"}},
        {"dft": {"max_cycle": 49}},
        {"split": {"seed": 1}},
        {"labels": {"forces": True}},
        {"labels": {"dispersion": "d4"}},
        {"labels": {"density_matrix": True}},
        {"storage": {"precision": {"pos": 1e-5}}},
    ],
    ids=str,
)
def test_each_scientific_setting_changes_the_hash(change: dict[str, Any]) -> None:
    changed = RunConfig.model_validate(change)
    assert config_hash(changed.science()) != config_hash(RunConfig().science())


@pytest.mark.parametrize(
    ("precision", "said"),
    [({"z": 1e-5}, "no label 'z'"), ({"pos": 0}, "greater than 0"), ({"pos": "inf"}, "finite")],
)
def test_bounds_that_can_not_be(precision: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, {"storage": {"precision": precision}})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({}, ()),
        ({"forces": True, "forces_grid_response": True}, ("forces",)),
        ({"dispersion": "d3bj"}, ("dispersion_energy",)),
        (
            {"forces": True, "dispersion": "d4"},
            ("forces", "dispersion_energy", "dispersion_forces"),
        ),
        ({"density_matrix": True, "fock_matrix": True}, ("density_matrix", "fock_matrix")),
    ],
    ids=str,
)
def test_optional_labels_are_those_of_the_store(
    labels: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert LabelConfig.model_validate(labels).optional_labels == names
    assert set(names) <= set(OPTIONAL)


@pytest.mark.parametrize(
    ("functional", "level", "forces", "warned"),
    [
        ("pbe", 0, True, True),
        ("b3lyp", 2, True, True),
        ("pbe", 3, True, False),
        ("pbe", 0, False, False),
        # Hartree-Fock uses no grid.
        ("hf", 0, True, False),
    ],
)
def test_forces_on_a_coarse_grid_are_noted(
    functional: str, level: int, forces: bool, warned: bool
) -> None:
    config = load_config(
        None,
        {"dft": {"functional": functional, "grid_level": level}, "labels": {"forces": forces}},
    )
    assert len(config.notes()) == warned
    for note in config.notes():
        assert f"grid level {level}" in note
        assert "use grid level 3 or finer" in note


def test_the_schema_file_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(RunConfig), (
        f"{SCHEMA.name} is out of date: run `make schemas`"
    )


def test_the_workflows_are_there() -> None:
    assert {"demo.yaml", "qm1b.yaml", "slurm.yaml"} <= {path.name for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_fit_the_schema(path: Path) -> None:
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "unheard_of": 1}, schema)
    config = load_config(path)
    for section, values in content.items():
        loaded = getattr(config, section)
        assert loaded == values or set(values) <= loaded.model_fields_set
