"""Whatever a store's metadata say, with right checksums too, reading is right or refused."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import collect_provenance, store_digest, verify_store, write_store
from qmgen.dataset.manifest import found_files, manifest_bytes
from qmgen.errors import QmgenError
from tests.dataset.conftest import TINY, _record
from tests.dataset.damage import read_all
from tests.fuzzing import damaged_json, fuzz

_MANIFEST = "manifest/zarr.json"


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory):
    """A small store, kept where examples find it."""
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "input.smi").write_text("CC\n")
    provenance = collect_provenance(
        config={}, seed=0, source=folder / "input.smi", command="qmgen generate"
    )
    records = [_record(i, np.random.default_rng(i), 2) for i in range(4)]
    write_store(folder / "store", records, [], provenance, split_seed=1, chunking=TINY)
    _STORE["path"] = folder / "store"
    yield
    _STORE.clear()


_STORE: dict[str, Path] = {}
# Metadata of the store, without its own values: what a good file looks like.
_NAMES = ["zarr.json", _MANIFEST, "conformers/zarr.json", "molecules/smile/zarr.json"]
_NAMES += ["conformers/pos/zarr.json", "conformers/atom_offset/zarr.json"]


def check(data: Any) -> None:
    store = _STORE["path"]
    name = data.draw(st.sampled_from(_NAMES))
    good = (store / name).read_bytes()
    manifest = (store / _MANIFEST).read_bytes()
    changed = data.draw(damaged_json(json.loads(good)))
    text = json.dumps(changed)
    try:
        (store / name).write_text(text)
        if name != _MANIFEST:
            metadata = (
                changed if name == "zarr.json" else json.loads((store / "zarr.json").read_bytes())
            )
            attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
            attributes = attributes if isinstance(attributes, dict) else {}
            (store / _MANIFEST).write_bytes(manifest_bytes(found_files(store), attributes))
        with suppress(QmgenError):
            read_all(store)
        # `main` prints errors of the one kind and raises the other.
        done = CliRunner().invoke(app, ["verify", str(store), "--json"])
        assert isinstance(done.exception, QmgenError | SystemExit | None), done.exception
    finally:
        (store / name).write_bytes(good)
        (store / _MANIFEST).write_bytes(manifest)


test_quick, test_slow = fuzz(check, st.data(), quick_examples=20)


def test_the_undamaged_store_is_good(tmp_path):
    read_all(_STORE["path"])
    assert verify_store(_STORE["path"]).intact
    copy = shutil.copytree(_STORE["path"], tmp_path / "copy")
    assert store_digest(copy) == store_digest(_STORE["path"])
