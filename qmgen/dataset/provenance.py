"""Facts about a run that its store keeps: versions, machine, input, configuration."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from qmgen.dataset.metadata import Hardware, Provenance, SourceFile
from qmgen.errors import InputError

PACKAGES = ("qmgen", "pyscf", "jax", "rdkit", "zarr", "numpy")


def collect_provenance(
    *,
    config: Mapping[str, Any],
    seed: int,
    source: str | os.PathLike[str],
    command: str,
    devices: Sequence[str] = (),
    packages: Iterable[str] = PACKAGES,
) -> Provenance:
    """Gather what a store says about how it was made.

    Parameters
    ----------
    config : mapping
        Scientific configuration of the run; values that JSON knows.
    seed : int
        Seed of the conformer generation.
    source : path
        Input file; it is read once for its checksum.
    command : str
        Command line of the run.
    devices : sequence of str
        Accelerators used; this room can't ask JAX.
    packages : iterable of str
        Distributions whose versions matter.

    Returns
    -------
    Provenance

    Raises
    ------
    InputError
        The input file can't be read, or the configuration is no JSON.
    """
    return Provenance(
        versions=package_versions(packages),
        config=dict(config),
        config_hash=config_hash(config),
        seed=seed,
        source=describe_source(source),
        hardware=describe_hardware(devices),
        command=command,
    )


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, the same for any order of its keys.

    Raises
    ------
    InputError
        The configuration holds something that JSON doesn't know.
    """
    try:
        text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the run configuration can't be written as JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of installed distributions and of Python; ``"unknown"`` for those not installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # qmgen itself runs from a checkout, and Conda builds may carry no metadata.
            versions[package] = "unknown"
    return versions


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, read in pieces.

    Raises
    ------
    OSError
        The file can't be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_source(path: str | os.PathLike[str]) -> SourceFile:
    """Name, size (bytes) and checksum of an input file.

    Raises
    ------
    InputError
        The file can't be read.
    """
    path = Path(path)
    try:
        return SourceFile(name=path.name, sha256=file_sha256(path), bytes=path.stat().st_size)
    except OSError as error:
        raise InputError(f"can't read the input file {path}: {error.strerror}") from error


def describe_hardware(devices: Sequence[str] = ()) -> Hardware:
    """Describe the machine that this process runs on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Hardware(
        cpu=_cpu_model(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        devices=tuple(devices),
        platform=platform.platform(),
    )


def _cpu_model() -> str:
    fallback = platform.processor() or platform.machine() or "unknown"
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        # Only Linux has the file.
        return fallback
    lines = (line.partition(":") for line in text.splitlines())
    return next((v.strip() for key, _, v in lines if key.strip() == "model name"), fallback)


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        # The names are POSIX extensions that some systems lack.
        return None
    return round(size / 2**30, 1)
