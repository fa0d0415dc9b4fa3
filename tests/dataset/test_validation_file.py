"""The outcome of a validation as a file: it comes back as it was, for its own store only."""

import json
import math

import pytest

from qmgen.dataset import open_dataset, verify_store
from qmgen.dataset.validation import (
    LabelError,
    ValidationReport,
    read_validation,
    write_validation,
)
from qmgen.errors import InputError

GOOD = LabelError("energy", "mHa", 1e-6, 3e-6, 1e-3, 12)
REPORT = ValidationReport((GOOD,), conformers=5, not_converged=1)


def test_round_trip(shared_store, tmp_path):
    dataset = open_dataset(shared_store)
    path = tmp_path / "validation.json"
    write_validation(REPORT, dataset, path)
    assert read_validation(path, dataset) == REPORT
    assert REPORT.passed
    other = ValidationReport((GOOD, LabelError("gap", "eV", math.nan, math.inf, 1e-3, 0)), 5, 5)
    write_validation(other, dataset, path)
    back = read_validation(path, dataset)
    assert math.isnan(back.errors[1].mean_absolute)
    assert back.errors[1].maximum == math.inf
    assert not back.passed
    # Standard JSON, and the store is as it was.
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert verify_store(shared_store).intact


def test_of_another_store_or_kind(shared_store, make_records, write, tmp_path):
    dataset = open_dataset(shared_store)
    path = tmp_path / "validation.json"
    write_validation(REPORT, dataset, path)
    with pytest.raises(InputError, match=r"validation.json is about another dataset \(store\)"):
        read_validation(path, open_dataset(write(make_records(3))))
    for content in ("{}", "nothing", '{"qmgen_kind": "qmgen-validation"}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="make it with qmgen validate"):
            read_validation(path, dataset)
    with pytest.raises(InputError, match="No such file"):
        read_validation(tmp_path / "nowhere.json", dataset)


def test_output_is_where_a_json_file_can_be(shared_store, tmp_path):
    dataset = open_dataset(shared_store)
    for name, words in (("a.smi", "must end in .json"), ("no/a.json", "folder that exists")):
        with pytest.raises(InputError, match=words):
            write_validation(REPORT, dataset, tmp_path / name)
    assert not list(tmp_path.iterdir())
