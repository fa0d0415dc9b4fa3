"""The folder of a run: what it holds, whose it is, and what becomes of it.

A dataset on this machine is made in its own place, so that is the run's folder until then. One
below a URL has its run's folder on this machine.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmgen.dataset import (
    RUN_FILE,
    Place,
    RemotePath,
    StoreMetadata,
    config_hash,
    file_sha256,
    open_dataset,
    place_of,
)
from qmgen.dataset.manifest import LOCK
from qmgen.dataset.places import remove_tree
from qmgen.errors import ConfigError, InputError, StoreError, StoreMismatchError
from qmgen.generate.lock import store_lock
from qmgen.generate.plan import Plan

PLAN, PARTS = "plan.sqlite", "parts"


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its own files.

    Attributes
    ----------
    path
        Of the folder.
    run
        Identifies the run, whoever goes on with it.
    parts
        Where finished batches are.
    shared
        Whether workers put them there themselves.
    created
        Whether this process made the folder.
    """

    path: Path
    run: str
    parts: Place
    shared: bool
    created: bool

    @property
    def plan(self) -> Path:
        """File of the plan."""
        return self.path / PLAN


def folder_of(output: Place, work: Path | None) -> Path:
    """Folder of the run that makes a dataset.

    Raises
    ------
    ConfigError
        One is given for a dataset on this machine.
    """
    if isinstance(output, RemotePath):
        return Path(os.path.abspath(work or f"{output.name}.qmgen-run"))
    if work is not None:
        raise ConfigError(
            f"--work is for outputs that are URLs; a run to {output} keeps its files there, so "
            "leave it out"
        )
    return output


def identity_of(source: Path, science: dict[str, Any], smiles_column: str | None) -> dict[str, str]:
    """Tell what two calls must share to be the same run."""
    try:
        digest = file_sha256(source)
    except OSError as error:
        raise InputError(
            f"can't read the input {source}: {error.strerror}; give a file of molecules"
        ) from error
    return {
        "configuration": config_hash(science),
        "input": digest,
        "smiles_column": smiles_column or "",
    }


def finished_store(output: Place, identity: Mapping[str, str]) -> StoreMetadata | None:
    """Metadata of the store if it is there already and is what this run would make."""
    if not (output / "zarr.json").exists():
        return None
    metadata = open_dataset(str(output)).metadata
    found = {
        "configuration": metadata.provenance.config_hash,
        "input": metadata.provenance.source.sha256,
    }
    compare(output, found, identity)
    return metadata


def compare(place: Place, found: Mapping[str, str], identity: Mapping[str, str]) -> None:
    """Refuse what was made with another configuration or input.

    Raises
    ------
    StoreMismatchError
        It was.
    """
    other = [name for name, value in found.items() if identity.get(name) != value]
    if other:
        raise StoreMismatchError(
            f"{place} exists and was made with another {' and '.join(other)}; choose another "
            "output, delete it, or repeat the command that made it"
        )


def enter(folder: Path, output: Place, identity: Mapping[str, str], parts: str | None) -> RunFolder:
    """Make the run's folder, or check that it is this run's.

    Parameters
    ----------
    folder
        Of the run.
    output
        The store to make.
    identity
        Of the run.
    parts
        Folder or URL below which workers put finished batches themselves.

    Raises
    ------
    StoreMismatchError
        The folder is that of another run, or this run's batches are elsewhere.
    StoreError
        It exists and is something else, or can't be made.
    """
    url = output.url if isinstance(output, RemotePath) else None
    place = None if parts is None else str(place_of(parts))
    marker = folder / RUN_FILE
    if marker.exists():
        found = _read(folder)
        run, before = found.pop("run", ""), found.pop("parts", None)
        if (other := found.pop("output", None)) != url:
            raise StoreMismatchError(
                f"{folder} is the folder of a run that makes {other or folder}; choose another "
                "--work"
            )
        compare(folder, found, identity)
        if before != place:
            raise StoreMismatchError(
                f"finished batches of this run are in {before or folder / PARTS}; set "
                f"cluster.parts to {before or 'nothing'}, as before, or delete {folder} to start "
                "again"
            )
        return _run_folder(folder, output, run, place, created=False)
    # All that a process leaves which was killed while it made the marker.
    temporary = marker.with_suffix(".tmp")
    if folder.exists() and (not folder.is_dir() or any(p != temporary for p in folder.iterdir())):
        raise StoreError(f"{folder} exists and is no qmgen dataset; choose another output")
    run = uuid.uuid4().hex
    content = {**identity, "run": run, "parts": place, "output": url}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
        os.replace(temporary, marker)
    except OSError as error:
        raise StoreError(f"can't make {folder}: {error.strerror}; choose another output") from error
    return _run_folder(folder, output, run, place, created=True)


def _run_folder(
    folder: Path, output: Place, run: str, parts: str | None, *, created: bool
) -> RunFolder:
    place = folder / PARTS if parts is None else _shared(parts, output, run)
    return RunFolder(folder, run, place, parts is not None, created)


def _shared(parts: str, output: Place, run: str) -> Place:
    """Place of a run's batches among those of other runs."""
    return place_of(parts) / f"{output.name}-{run[:12]}"


def _read(folder: Path) -> dict[str, Any]:
    marker = folder / RUN_FILE
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise StoreError(
            f"{marker} is damaged ({error}); delete {folder} to start again"
        ) from error
    return found


def discard(folder: RunFolder) -> None:
    """Remove a folder in which nothing was done yet."""
    if folder.shared:
        remove_tree(folder.parts)
    shutil.rmtree(folder.path, ignore_errors=True)


def tidy(output: Place, path: Path) -> int:
    """Remove the run's own files when its store is there; gives the number of unsuited molecules.

    Nothing is done to a folder that is another run's.
    """
    found: dict[str, Any] = {}
    with suppress(StoreError, OSError):
        found = _read(path)
    if isinstance(output, RemotePath):
        if (output / RUN_FILE).is_file():
            (output / RUN_FILE).unlink(missing_ok=True)
        if found.get("output") != output.url:
            return 0
    unsuited = Plan(path / PLAN).counts().unsuited if (path / PLAN).exists() else 0
    if found.get("parts") is not None:
        remove_tree(_shared(found["parts"], output, found["run"]))
    remove_tree(path / PARTS)
    for name in (PLAN, f"{PLAN}-journal", RUN_FILE):
        (path / name).unlink(missing_ok=True)
    if isinstance(output, RemotePath):
        with suppress(OSError):
            (path / LOCK).unlink(missing_ok=True)
            # Unless somebody else has put something there.
            path.rmdir()
    return unsuited


def tidy_finished(output: Place, path: Path) -> int:
    """As `tidy`, for whoever finds the store there already.

    Raises
    ------
    StoreMismatchError
        Another process is writing the store.
    """
    if isinstance(output, RemotePath):
        return tidy(output, path)
    if not any((path / name).exists() for name in (RUN_FILE, LOCK)):
        return 0
    with store_lock(path):
        return tidy(output, path)
