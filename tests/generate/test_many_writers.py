"""Workers that commit batches themselves, to a folder and to objects, and datasets below a URL."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from qmgen.dataset import RUN_FILE, Place, open_dataset, place_of, store_digest, verify_store
from qmgen.dataset.places import file_sizes, names_in
from qmgen.errors import (
    ClusterError,
    ConfigError,
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
)
from qmgen.generate import (
    Progress,
    RunConfig,
    RunSummary,
    commit,
    generate,
    load_config,
    parts,
    repair,
    schedule,
    worker,
)
from qmgen.generate.commit import SharedParts, WrongResultError, check_receipt, leave_mark
from qmgen.generate.parts import is_complete, load_part, part_path, save_part, with_completeness
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.worker import label_batch
from tests.generate.runs import (
    ROOT,
    Command,
    kill_group,
    wait_for,
    write_smiles,
    write_yaml,
)
from tests.generate.runs import (
    parts as parts_of,
)
from tests.generate.test_parts import SLICES, assert_same

MOLECULES = ("C", "CC", "CCO", "N", "CN", "OO", "CC#N", "CF")


class Interrupting(Progress):
    """Interrupts a run after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def batch_done(self, conformers: int) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def threads() -> Iterator[str]:
    """Address of workers that are threads of this process, so that they see its memory."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False),
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_smiles(folder / "molecules.smi", dict.fromkeys(MOLECULES, ""))


@pytest.fixture
def config(threads: str) -> RunConfig:
    return load_config(
        None,
        {
            "": {"method": "mmff94", "batch_conformers": 2},
            "conformers": {"per_molecule": 2},
            "cluster": {"scheduler": threads},
        },
    )


@pytest.fixture(scope="module")
def expected(source: Path, threads: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Content of the dataset when this process writes all, to a folder."""
    config = load_config(
        None,
        {
            "": {"method": "mmff94", "batch_conformers": 2},
            "conformers": {"per_molecule": 2},
            "cluster": {"scheduler": threads},
        },
    )
    return store_digest(
        str(generate(source, tmp_path_factory.mktemp("expected") / "store", config).path)
    )


def with_parts(config: RunConfig, parts: object) -> RunConfig:
    cluster = config.cluster.model_copy(update={"parts": str(parts)})
    return config.model_copy(update={"cluster": cluster})


def check(summary: RunSummary, expected: str) -> None:
    assert store_digest(str(summary.path)) == expected
    assert verify_store(str(summary.path)).intact


def test_workers_write_to_a_folder(
    source: Path, config: RunConfig, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes to this process, whose own writing fails."""
    shared = tmp_path / "shared"
    (shared / "of another run").mkdir(parents=True)

    def fail(*_: object) -> None:
        raise AssertionError("written here")

    monkeypatch.setattr("qmgen.generate.run.save_part", fail)
    check(generate(source, tmp_path / "store", with_parts(config, shared)), expected)
    assert [path.name for path in shared.iterdir()] == ["of another run"]


def test_interrupted_and_resumed_on_objects(
    source: Path, config: RunConfig, expected: str, place: str, tmp_path: Path
) -> None:
    output, work = f"{place}/store.zarr", tmp_path / "work"
    config = with_parts(config, f"{place}/parts")
    with suppress(KeyboardInterrupt):
        generate(source, output, config, work=work, progress=Interrupting(3))
    with pytest.raises(StoreIncompleteError, match="resume it with the same"):
        open_dataset(output)
    assert json.loads((place_of(output) / RUN_FILE).read_bytes())["alive"] is None
    (run,) = names_in(place_of(f"{place}/parts"))
    batches = place_of(f"{place}/parts/{run}/000000")
    assert 3 <= len(names_in(batches)) < len(MOLECULES)
    # One changes before it is read.
    victim = batches / sorted(names_in(batches))[0]
    content = victim.read_bytes()
    victim.write_bytes(content[:200] + b"damage" + content[206:])
    summary = generate(source, output, config, work=work)
    assert summary.resumed_batches >= 3
    check(summary, expected)
    assert names_in(place_of(f"{place}/parts")) == []
    assert not work.exists()
    assert sorted(names_in(place_of(output))) == [
        "conformers",
        "failures",
        "manifest",
        "molecules",
        "zarr.json",
    ]
    again = generate(source, output, config, work=work)
    assert again.already_complete
    with pytest.raises(StoreMismatchError, match="made with another configuration"):
        generate(source, output, config.model_copy(update={"seed": 1}), work=work)
    assert not work.exists()


def test_this_process_writes_batches_here_and_the_dataset_elsewhere(
    source: Path, config: RunConfig, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = f"memory://{tmp_path.name}/store.zarr"
    with suppress(KeyboardInterrupt):
        generate(source, output, config, progress=Interrupting(3))
    assert len(parts_of(tmp_path / "store.zarr.qmgen-run")) == 3
    summary = generate(source, output, config)
    assert summary.resumed_batches == 3
    check(summary, expected)
    assert not [*tmp_path.iterdir()]


def test_a_command_that_does_nothing_leaves_nothing(config: RunConfig, tmp_path: Path) -> None:
    output = f"memory://{tmp_path.name}/store.zarr"
    bad = write_smiles(tmp_path / "bad.smi", {"C1CC": ""})
    config = with_parts(config, tmp_path / "shared")
    with pytest.raises(ValueError, match="no molecule"):
        generate(bad, output, config, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()
    assert not place_of(output).exists()
    assert not file_sizes(tmp_path / "shared")


def test_a_work_folder_is_for_urls(source: Path, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        generate(source, tmp_path / "store", config, work=tmp_path / "work")


def test_what_changes_a_dataset_in_place_refuses_a_url() -> None:
    with pytest.raises(StoreError, match="copy it to a folder"):
        repair("memory://bucket/store")


def test_batches_are_looked_for_where_they_were_put(
    source: Path, config: RunConfig, tmp_path: Path
) -> None:
    first = with_parts(config, tmp_path / "one")
    with suppress(KeyboardInterrupt):
        generate(source, tmp_path / "store", first, progress=Interrupting(2))
    for other in (config, with_parts(config, tmp_path / "two")):
        with pytest.raises(StoreMismatchError, match=f"set cluster.parts to {tmp_path / 'one'}"):
            generate(source, tmp_path / "store", other)


def test_a_work_folder_of_another_output_is_refused(
    source: Path, config: RunConfig, tmp_path: Path
) -> None:
    output = f"memory://{tmp_path.name}/"
    with suppress(KeyboardInterrupt):
        generate(source, output + "one", config, work=tmp_path / "work", progress=Interrupting(2))
    with pytest.raises(StoreMismatchError, match="choose another --work"):
        generate(source, output + "two", config, work=tmp_path / "work")


def test_a_folder_that_workers_do_not_share_is_told(
    source: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark that this process left is not what they find."""
    monkeypatch.setattr("qmgen.generate.run.leave_mark", lambda parts: None)
    with pytest.raises(ClusterError, match="not what the run's process sees there"):
        generate(source, tmp_path / "store", with_parts(config, tmp_path / "shared"))
    assert not file_sizes(tmp_path / "shared")


def test_a_batch_that_is_taken_apart_is_one_whole_part(
    source: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"batch_conformers": 6})

    def label(batch: Batch, *rest: object) -> object:
        if any(part.number == 1 for part in batch.slices):
            raise RuntimeError("it does not work")
        return label_batch(batch, *rest)

    # Tasks name the function by its place.
    label.__module__, label.__qualname__ = label_batch.__module__, label_batch.__qualname__
    for module in (schedule, worker):
        monkeypatch.setattr(module, "label_batch", label)
    digests = []
    for name, own in (("one", config), ("many", with_parts(config, tmp_path / "shared"))):
        dataset = open_dataset(str(generate(source, tmp_path / name, own).path))
        (failure,) = dataset.failures()
        assert (failure.smile, failure.stage) == ("CC", "label")
        assert len(dataset) == 2 * (len(MOLECULES) - 1)
        digests.append(store_digest(dataset.path))
    assert digests[0] == digests[1]


def test_receipts_are_checked() -> None:
    batch = Batch(4, tuple(Slice(part.number, "", 0, 5) for part in SLICES))
    receipt = commit.receipt_of(4, SLICES)
    check_receipt(batch, receipt)
    assert receipt.conformers == ((5, 4), (7, 0), (9, 0), (11, 1))
    wrong = [
        None,
        SLICES,
        replace(receipt, batch=5),
        replace(receipt, conformers=receipt.conformers[::-1]),
        replace(receipt, conformers=((5, 6), *receipt.conformers[1:])),
    ]
    for result in wrong:
        with pytest.raises(WrongResultError):
            check_receipt(batch, result)


def test_two_writers_of_one_batch_do_not_disturb_each_other(tmp_path: Path) -> None:
    writers = [
        threading.Thread(target=lambda: [save_part(tmp_path, 3, SLICES) for _ in range(20)])
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if is_complete(tmp_path, 3):
            for one, other in zip(SLICES, load_part(tmp_path, 3), strict=True):
                assert_same(one, other)
    assert [*file_sizes(tmp_path)] == ["000000/000000003.npz"]


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from qmgen.generate import parts
from tests.generate.test_parts import SLICES

def half(stream, **arrays):
    stream.write(b"PK" + bytes(5000))
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

np.savez = half
parts.save_part(Path(sys.argv[1]), 3, SLICES)
"""


def test_a_writer_killed_amid_writing_leaves_no_part(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(file_sizes(tmp_path)) == 1
    assert [*with_completeness(tmp_path, [(3, 5)])] == [(3, 5, False)]
    save_part(tmp_path, 3, SLICES)
    assert [*with_completeness(tmp_path, [(3, 5)])] == [(3, 5, True)]
    assert_same(SLICES[0], load_part(tmp_path, 3)[0])


def test_a_thousand_batches_take_one_listing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {0, 999, 2001}
    for number in there:
        save_part(place_of(place), number, SLICES[3:])
    listings = []

    def counted(folder: object) -> list[str]:
        listings.append(str(folder))
        return names_in(folder)

    monkeypatch.setattr(parts, "names_in", counted)
    found = with_completeness(place_of(place), ((number, 7) for number in range(2500)))
    assert {number for number, _, complete in found if complete} == there
    assert listings == [f"{place}/{number:06d}" for number in range(3)]
    assert_same(SLICES[3], load_part(place_of(place), 999)[0])
    (part_path(place_of(place), 999)).unlink()
    with pytest.raises(StoreError, match="missing or damaged"):
        load_part(place_of(place), 999)


def test_a_run_that_lost_its_output_leaves_it_to_the_other(
    source: Path, config: RunConfig, memory: str, tmp_path: Path
) -> None:
    """Another one takes over while this one writes the store."""
    output = place_of(memory)

    class TakenOver(Progress):
        def stage(self, text: str) -> None:
            if text == "writing the store":
                marker = json.loads((output / RUN_FILE).read_bytes())
                (output / RUN_FILE).write_bytes(json.dumps(marker | {"run": "other"}).encode())

    with pytest.raises(StoreMismatchError, match="has taken over"):
        generate(source, memory, config, work=tmp_path / "work", progress=TakenOver())
    assert json.loads((output / RUN_FILE).read_bytes())["run"] == "other"
    assert (output / "conformers" / "energy" / "zarr.json").is_file()
    assert not (output / "zarr.json").is_file()


def test_objects_of_others_are_left_alone(source: Path, config: RunConfig, tmp_path: Path) -> None:
    output = f"memory://{tmp_path.name}/store"
    (place_of(output) / "thesis.tex").write_bytes(b"thesis")
    with pytest.raises(StoreError, match="no qmgen dataset"):
        generate(source, output, config, work=tmp_path / "work")
    assert [*file_sizes(place_of(output))] == ["thesis.tex"]
    assert not (tmp_path / "work").exists()


def test_marks_tell_runs_apart(tmp_path: Path) -> None:
    leave_mark(SharedParts(tmp_path / "parts", "one"))
    commit._check_mark(SharedParts(tmp_path / "parts", "one"))
    with pytest.raises(StoreError, match="not what the run's process sees"):
        commit._check_mark(SharedParts(tmp_path / "parts", "two"))


def batches_below(root: Place) -> int:
    # Asking without a pause would keep the server from others.
    time.sleep(0.2)
    return sum(name.endswith(".npz") for name in file_sizes(root))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["folder", "s3"])
def test_killed_runs_and_workers(
    qmgen: Command,
    environment: dict[str, str],
    bucket: str,
    source: Path,
    tmp_path: Path,
    target: str,
) -> None:
    """The whole command with workers of its own, ended twice as a power cut does."""
    command = Command({**environment, **{k: v for k, v in os.environ.items() if "AWS" in k}})
    base = f"{bucket}/killed" if target == "s3" else str(tmp_path / "shared")
    settings = {
        "method": "mmff94",
        "batch_conformers": 2,
        "conformers": {"per_molecule": 24},
        "cluster": {"workers": 2, "parts": f"{base}/parts"},
    }
    file = write_yaml(tmp_path / "run.yaml", settings)
    del settings["cluster"]["parts"]
    plain = write_yaml(tmp_path / "plain.yaml", settings)
    done = command("generate", source, tmp_path / "expected", "--config", plain)
    assert done.returncode == 0, done.stderr
    output = f"{base}/store.zarr"
    line: list[object] = ["generate", source, output, "--config", file]
    if target == "s3":
        line += ["--work", tmp_path / "work"]
    root = place_of(f"{base}/parts")
    for wanted in (4, 12):
        process = command.start(*line, log=tmp_path / "log")
        assert wait_for(lambda wanted=wanted: batches_below(root) >= wanted, process)
        kill_group(process)
        with pytest.raises(StoreIncompleteError):
            open_dataset(output)
    done = command(*line)
    assert done.returncode == 0, done.stderr
    assert "batches were done before" in done.stdout
    assert store_digest(output) == store_digest(tmp_path / "expected")
    assert command("verify", output).returncode == 0
    assert file_sizes(root) == {}
