import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from qmgen.dataset import schema_text
from qmgen.errors import ConfigError
from qmgen.training import TrainConfig, load_train_config

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schemas" / "train-config.schema.json"
WORKFLOWS = sorted(
    path
    for path in (ROOT / "workflows").glob("*.yaml")
    if not {"generate", "dft"} & set(path.read_text(encoding="utf-8").split())
)


def test_the_command_line_overrides_the_file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "targets: {forces: 100, energy: 1}\nepochs: 7\nbatch_size: 9\ninit_from: model.ckpt\n"
        "schedule: {kind: warmup_decay, decay_steps: 10}\nprecision: bf16-mixed\n"
    )
    config = load_train_config(path, {"epochs": 3, "seed": None})
    assert (config.epochs, config.batch_size, config.seed) == (3, 9, 0)
    assert list(config.targets.items()) == [("energy", 1.0), ("forces", 100.0)]
    assert config.init_from == tmp_path / "model.ckpt"
    assert config.schedule.decay_steps == 10
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert load_train_config(None) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("targets: {gap: -1}", ["targets.gap", "greater than 0"]),
        ("targets: {spin: 1}", ["targets.spin", "'energy', 'forces'"]),
        ("targets: {}", ["targets", "at least 1"]),
        ("targets: {forces: 1}", ["targets", "add energy"]),
        ("width: 3", ["width", "Extra inputs", "given: 3"]),
        ("schedule: {kind: cosine}", ["schedule", "'plateau', 'warmup_decay'"]),
        ("train_size: 5\ntrain_molecules: 5", ["not both"]),
        ("representation: painn\nn_filters: 5", ["n_filters is a size of schnet"]),
        ("precision: 64", ["precision"]),
        ("epochs: [", ["line 1", "YAML"]),
        ("- epochs", ["a mapping of options"]),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match=r"command line: epochs: .* \(given: 0\)"):
        load_train_config(None, {"epochs": 0})


def test_the_schema_file_is_current():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(TrainConfig), "run `make schemas`"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_fit_the_schema(path):
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "unheard_of": 1}, schema)
    config = load_train_config(path)
    assert set(content) <= config.model_fields_set
    assert config != TrainConfig()


def test_the_workflows_are_there():
    assert "schnet9m.yaml" in {path.name for path in WORKFLOWS}
