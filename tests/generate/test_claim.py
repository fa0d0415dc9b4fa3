"""An output in objects has one run at a time."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qmgen.dataset import RUN_FILE, place_of
from qmgen.errors import StoreError, StoreMismatchError
from qmgen.generate import claim
from qmgen.generate.claim import claimed

IDENTITY = {"configuration": "a", "input": "b", "smiles_column": ""}


def test_an_output_has_one_run_at_a_time(place: str) -> None:
    output = place_of(place)
    marker = output / RUN_FILE
    with claimed(output, IDENTITY, "one") as held:
        held.check(ask=True)
        with (
            pytest.raises(StoreMismatchError, match="another qmgen process is writing"),
            claimed(output, IDENTITY, "two"),
        ):
            pass
        with (
            pytest.raises(StoreMismatchError, match="another input"),
            claimed(output, IDENTITY | {"input": "c"}, "three"),
        ):
            pass
        killed = marker.read_bytes()
    # It ended in good order, so anybody may go on.
    with claimed(output, IDENTITY, "two") as held:
        held.withdraw()
    assert not output.exists()
    # One that was killed keeps others out for some minutes, but not itself.
    marker.write_bytes(killed)
    with pytest.raises(StoreMismatchError, match="s old"), claimed(output, IDENTITY, "two"):
        pass
    with claimed(output, IDENTITY, "one"):
        pass
    long_ago = (datetime.now(UTC) - timedelta(minutes=6)).isoformat()
    marker.write_bytes(json.dumps({**json.loads(killed), "alive": long_ago}).encode())
    with claimed(output, IDENTITY, "two"):
        assert json.loads(marker.read_bytes())["run"] == "two"


def test_a_run_that_seemed_dead_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_BEAT_SECONDS", 0.02)
    output = place_of(f"memory://{tmp_path.name}/store")
    marker = output / RUN_FILE
    with claimed(output, IDENTITY, "one") as held:
        first = marker.read_bytes()
        deadline = datetime.now(UTC) + timedelta(seconds=20)
        while marker.read_bytes() == first and datetime.now(UTC) < deadline:
            held.check()
        assert marker.read_bytes() != first
        marker.write_bytes(first.replace(b'"one"', b'"two"'))
        with pytest.raises(StoreMismatchError, match="has taken over"):
            held.check(ask=True)
    assert json.loads(marker.read_bytes())["run"] == "two"


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_damaged_claim_is_named(tmp_path: Path, content: bytes) -> None:
    output = place_of(f"memory://{tmp_path.name}/store")
    (output / RUN_FILE).write_bytes(content)
    with (
        pytest.raises(StoreError, match=r"qmgen-run\.json is damaged"),
        claimed(output, IDENTITY, "one"),
    ):
        pass
