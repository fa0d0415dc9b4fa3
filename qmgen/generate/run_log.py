"""What a run tells programs: a log of JSON lines, and numbers on the scheduler's metrics page."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distributed import Client

from qmgen.errors import InputError

_PREFIX = "qmgen_"


class RunLog:
    """Appends events to a file, one JSON object a line; without a file it does nothing.

    Every event has ``time`` (ISO 8601, UTC), ``event``, and ``process``, by which attempts at a run
    are told apart.

    Parameters
    ----------
    path : Path or None
        File to append to.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def event(self, kind: str, **values: Any) -> None:
        """Write an event.

        Raises
        ------
        InputError
            The file can't be written.
        """
        if self._path is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": kind, "process": os.getpid(), **values})
        try:
            # Opened for each line, so that a file may be moved away meanwhile.
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise InputError(
                f"can't write the log {self._path}: {error.strerror or error}; choose another file"
            ) from error


def publish(client: Client, values: Mapping[str, int]) -> None:
    """Show numbers on the scheduler's page ``/metrics``, in the format of Prometheus.

    That page exists where the scheduler has the package prometheus-client; elsewhere nothing is
    shown.

    Parameters
    ----------
    client
        Of the cluster.
    values
        By name, which gets the prefix ``qmgen_``.
    """
    client.run_on_scheduler(_set_gauges, dict(values))


def _set_gauges(values: dict[str, int]) -> None:
    try:
        from prometheus_client import REGISTRY, Gauge
    except ImportError:
        return
    for name, value in values.items():
        # A registry gives collectors by name through no other way.
        gauge: Any = REGISTRY._names_to_collectors.get(_PREFIX + name)
        if gauge is None:
            gauge = Gauge(_PREFIX + name, f"{name.replace('_', ' ')} of the qmgen run")
        gauge.set(value)
