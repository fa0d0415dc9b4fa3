"""Workers that fail, for a time or for good, and workers that give what they were not asked for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from qmgen.generate import RunConfig, load_config, schedule
from qmgen.generate.cluster import Cluster
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.schedule import run_batches
from qmgen.generate.worker import LabelledSlice, label_batch
from qmgen.molecules import molecule_from_smiles

SMILES = ("C", "CC", "CCO", "N")
Label = Callable[..., object]


@pytest.fixture(scope="module")
def threads() -> Iterator[Cluster]:
    """Workers that are threads of this process, so that a test decides what they do."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Cluster(client, 1, "threads")


@pytest.fixture
def config() -> RunConfig:
    return load_config(None, {"": {"method": "mmff94"}, "conformers": {"per_molecule": 3}})


def batches() -> Iterator[Batch]:
    """Two batches of two molecules."""
    for number in range(2):
        slices = [
            Slice(i, molecule_from_smiles(SMILES[i], line=i + 1).to_json(), 0, 3)
            for i in (2 * number, 2 * number + 1)
        ]
        yield Batch(number, tuple(slices))


def run(
    cluster: Cluster, config: RunConfig, label: Label, monkeypatch: pytest.MonkeyPatch
) -> dict[int, LabelledSlice]:
    monkeypatch.setattr(schedule, "label_batch", label)
    done = dict(run_batches_of(cluster, config))
    assert sorted(done) == [0, 1, 2, 3]
    return done


def run_batches_of(cluster: Cluster, config: RunConfig) -> Iterator[tuple[int, LabelledSlice]]:
    for _, slices in run_batches(cluster, batches(), config):
        yield from ((part.number, part) for part in slices)


def energies(done: dict[int, LabelledSlice]) -> dict[int, list[float]]:
    return {
        number: part.record.conformers["energy"].tolist()
        for number, part in done.items()
        if part.record is not None
    }


def first_time(folder: Path, trouble: Label) -> Label:
    """Trouble at the first call for each batch, and then none; files say which were called."""

    def label(batch: Batch, *rest: object) -> object:
        called = folder / f"{batch.number}"
        if called.exists():
            return label_batch(batch, *rest)
        called.touch()
        return trouble(batch, *rest)

    return label


def fail(batch: Batch, *_: object) -> object:
    raise RuntimeError("it does not work")


def reverse(batch: Batch, *rest: object) -> object:
    return label_batch(batch, *rest)[::-1]


def nothing(*_: object) -> object:
    return None


def renumber(batch: Batch, *rest: object) -> object:
    slices = []
    for part in label_batch(batch, *rest):
        conformers = part.record.conformers
        conformers = conformers | {"index": conformers["index"] + 100}
        slices.append(replace(part, record=replace(part.record, conformers=conformers)))
    return slices


def other_atoms(batch: Batch, *rest: object) -> object:
    return [
        replace(part, record=replace(part.record, z=part.record.z[::-1].copy()))
        for part in label_batch(batch, *rest)
    ]


@pytest.mark.parametrize("trouble", [fail, reverse, nothing, renumber, other_atoms])
def test_trouble_that_passes_leaves_no_trace(
    threads: Cluster,
    config: RunConfig,
    trouble: Label,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    expected = run(threads, config, label_batch, monkeypatch)
    assert len(energies(expected)) == 4
    done = run(threads, config, first_time(tmp_path, trouble), monkeypatch)
    assert len(list(tmp_path.iterdir())) == 2
    assert energies(done) == energies(expected)
    assert not [failure for part in done.values() for failure in part.failures]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (fail, "RuntimeError: it does not work (conformers 0 to 2)"),
        (renumber, "a worker gave conformers that it was not asked for"),
    ],
)
def test_a_molecule_that_always_fails_is_recorded_and_others_are_labelled(
    threads: Cluster,
    config: RunConfig,
    trouble: Label,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = energies(run(threads, config, label_batch, monkeypatch))

    def label(batch: Batch, *rest: object) -> object:
        poisoned = any(part.number == 2 for part in batch.slices)
        return trouble(batch, *rest) if poisoned else label_batch(batch, *rest)

    done = run(threads, config, label, monkeypatch)
    del expected[2]
    assert energies(done) == expected
    (failure,) = [failure for part in done.values() for failure in part.failures]
    assert (failure.line, failure.smile, failure.stage) == (3, "CCO", "label")
    assert reason in failure.reason
