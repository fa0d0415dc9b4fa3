"""What all appends share: one at a time, in the store's own folder, going on after a kill."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qmgen.dataset import RUN_FILE, Dataset, open_dataset
from qmgen.dataset.growth import discard, growth_folder, settle
from qmgen.dataset.manifest import SEALED_SINCE
from qmgen.dataset.publishing import disk_errors
from qmgen.errors import StoreError, StoreMismatchError
from qmgen.generate.lock import store_lock

_JOB = "job.json"


@contextmanager
def growing(store: Path) -> Iterator[Dataset]:
    """Have a store for oneself to append to, with what a killed append had begun completed.

    Raises
    ------
    StoreIncompleteError
        The run that makes the store has not finished.
    StoreMismatchError
        Another process is writing it.
    StoreError
        There is no store, it is damaged, or of too early a version of the layout.
    """
    if not (store / "zarr.json").is_file() or (store / RUN_FILE).exists():
        # Explains what there is instead of a store, or is one that generate has yet to tidy.
        open_dataset(store)
    with store_lock(store):
        if settle(store):
            leave(store)
        dataset = open_dataset(store)
        version = dataset.metadata.schema_version
        if version < SEALED_SINCE:
            raise StoreError(
                f"{store} has schema version {version}, to which nothing can be appended; make it "
                f"one of the present version with qmgen merge OTHER {store}, and append to that"
            )
        yield dataset


def unfinished(store: Path) -> dict[str, str] | None:
    """Say which append of a store has begun and not finished; see `enter`."""
    try:
        found = json.loads((growth_folder(store) / _JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # None, or one that was killed before it began.
        return None
    return found if isinstance(found, dict) else None


def enter(store: Path, job: Mapping[str, str]) -> Path:
    """Make the folder of an append, or find that of an earlier attempt at the same one.

    Parameters
    ----------
    store
        Folder of the store.
    job
        What makes two appends the same; ``what`` says it in words.

    Raises
    ------
    StoreMismatchError
        Another append is unfinished.
    StoreError
        The folder can't be written.
    """
    folder = growth_folder(store)
    found = unfinished(store)
    if found is not None and found != dict(job):
        what = found.get("what", "something else")
        raise StoreMismatchError(
            f"an append of {what} to {store} has not finished; repeat that command first, or "
            f"delete {folder} to give it up"
        )
    discard(store)
    if found is not None:
        return folder
    with disk_errors(store):
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{_JOB}.tmp"
        temporary.write_text(json.dumps(job, indent=2), encoding="utf-8")
        temporary.replace(folder / _JOB)
    return folder


def leave(store: Path) -> None:
    """Remove the folder of an append."""
    shutil.rmtree(growth_folder(store), ignore_errors=True)
