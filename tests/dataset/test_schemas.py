import json
from pathlib import Path

import jsonschema
import pydantic
import pytest

from qmgen.dataset import (
    Record,
    StoreMetadata,
    config_hash,
    json_schemas,
    open_dataset,
    package_versions,
    schema_text,
    write_schema,
)
from qmgen.dataset.metadata import SCHEMA_MODELS
from qmgen.dataset.provenance import describe_hardware, describe_source
from qmgen.dataset.schema import COLUMNS, OPTIONAL, store_groups
from qmgen.errors import InputError

SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.mark.parametrize("name", SCHEMA_MODELS)
def test_files_are_current(name, tmp_path):
    path = SCHEMAS / f"{name}.schema.json"
    assert path.read_text(encoding="utf-8") == schema_text(SCHEMA_MODELS[name]), (
        f"{path.name} is out of date: write it again with qmgen.dataset.write_schema"
    )
    write_schema(SCHEMA_MODELS[name], tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("optional_labels", [(), tuple(OPTIONAL)])
def test_real_metadata_and_records_fit(make_records, write, optional_labels):
    records = make_records(10, nconf=3, optional_labels=optional_labels)
    records[0].conformers["lumo"][:] = float("nan")
    path = write(records, optional_labels=optional_labels, notes=["mind this"])
    schemas = json_schemas()
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    jsonschema.validate(attributes, schemas["store-metadata"])
    dataset = open_dataset(path)
    assert StoreMetadata.model_validate(attributes) == dataset.metadata
    for row in dataset:
        plain = Record.from_row(row).model_dump(mode="json")
        jsonschema.validate(plain, schemas["record"])
        json.dumps(plain, allow_nan=False)
        for name in OPTIONAL:
            assert (plain[name] is None) == (name not in optional_labels)
    assert Record.from_row(dataset[0]).lumo is None


def test_schemas_refuse_what_does_not_fit(make_records, write):
    attributes = json.loads((write([]) / "zarr.json").read_text())["attributes"]
    schema = json_schemas()["store-metadata"]
    for change in ({"extra": 1}, {"qmgen_kind": "other"}, {"counts": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**attributes, **change}, schema)


def test_models_are_frozen_and_described(provenance):
    with pytest.raises(pydantic.ValidationError):
        provenance.seed = 8
    assert tuple(Record.model_fields) == tuple(COLUMNS)
    for name, field in Record.model_fields.items():
        if name != "split":
            assert f"(unit: {COLUMNS[name].unit})" in field.description


def test_every_array_has_a_unit_and_description():
    for fields in store_groups(tuple(OPTIONAL)).values():
        for name, field in fields.items():
            assert field.name == name
            assert field.unit
            assert field.description


def test_config_hash_ignores_the_order_of_keys():
    assert config_hash({"a": 1, "b": [2.5]}) == config_hash({"b": [2.5], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    with pytest.raises(InputError, match="JSON"):
        config_hash({"a": {1, 2}})


def test_provenance_facts(provenance, tmp_path):
    (tmp_path / "input.smi").write_text("CC ethane\n", encoding="utf-8")
    assert provenance.source == describe_source(tmp_path / "input.smi")
    assert provenance.source.bytes == 10
    assert provenance.source.name == "input.smi"
    versions = package_versions(["zarr", "no-such-package-at-all"])
    assert versions["zarr"].startswith("3.")
    assert versions["no-such-package-at-all"] == "unknown"
    hardware = describe_hardware(["GPU 0"])
    assert hardware.cores >= 1
    assert hardware.devices == ("GPU 0",)
    with pytest.raises(InputError, match="nowhere"):
        describe_source(tmp_path / "nowhere")
