"""Keeps two runs from writing the same objects, where there is no lock that ends with a process.

While a run writes below a URL, an object there says whose it is and when the run last gave a sign
of life. One that ended in good order says so; of one that was killed, the sign grows old.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

from qmgen.dataset import RUN_FILE, RemotePath
from qmgen.errors import StoreError, StoreMismatchError, StoreUnreachableError
from qmgen.generate.run_folder import compare

_BEAT_SECONDS = 30.0
# Of silence, after which a run counts as dead.
_DEAD_SECONDS = 300.0


class Claim:
    """A run's claim to an output."""

    def __init__(self, output: RemotePath, identity: Mapping[str, str], run: str) -> None:
        self._output = output
        self._marker = output / RUN_FILE
        self._identity = dict(identity)
        self._run = run
        self._lost = Event()
        self._keep = True

    def check(self, *, ask: bool = False) -> None:
        """Make sure that the output is still this run's.

        Parameters
        ----------
        ask
            Whether to look now; else what the last sign of life found is told.

        Raises
        ------
        StoreMismatchError
            Another run has taken it, as this one seemed dead.
        """
        if self._lost.is_set() or (ask and self._owner() not in (self._run, None)):
            raise StoreMismatchError(
                f"another run has taken over {self._output}, as this one gave no sign of life for "
                "some minutes; let that one finish"
            )

    def withdraw(self) -> None:
        """Leave no sign of the claim when it ends."""
        self._keep = False

    def take(self) -> None:
        """Claim the output; raises as `claimed`."""
        if not self._marker.is_file() and self._output.exists():
            raise StoreError(
                f"{self._output} exists and is no qmgen dataset; choose another output"
            )
        if self._marker.create(self._content(alive=True)):
            return
        found = self._read()
        compare(
            self._output, {name: found.get(name, "") for name in self._identity}, self._identity
        )
        age = _age_seconds(found)
        if found.get("run") != self._run and age is not None and age < _DEAD_SECONDS:
            raise StoreMismatchError(
                f"another qmgen process is writing {self._output}: on {found.get('host')}, its "
                f"last sign of life is {age:.0f} s old; wait for it or stop it first. If it was "
                f"killed, this command works when that is {_DEAD_SECONDS:.0f} s old"
            )
        self._marker.write_bytes(self._content(alive=True))

    def beat(self, ended: Event) -> None:
        """Give signs of life until an event."""
        while not ended.wait(_BEAT_SECONDS):
            try:
                if self._owner() not in (self._run, None):
                    self._lost.set()
                    return
                self._marker.write_bytes(self._content(alive=True))
            except StoreUnreachableError:
                # The next one may get through, and before the end the owner is asked for.
                continue

    def end(self) -> None:
        """Say that nobody is writing any more, unless another run is."""
        # Where that fails, the last sign of life grows old.
        with suppress(StoreUnreachableError):
            if self._lost.is_set() or self._owner() != self._run:
                return
            if self._keep:
                self._marker.write_bytes(self._content(alive=False))
            else:
                self._marker.unlink(missing_ok=True)

    def _content(self, *, alive: bool) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="seconds") if alive else None
        content = {"run": self._run, "host": platform.node(), "alive": now}
        return json.dumps({**self._identity, **content}, indent=2).encode()

    def _owner(self) -> str | None:
        try:
            return str(self._read().get("run"))
        except FileNotFoundError:
            return None

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._marker.read_bytes())
            if not isinstance(found, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise StoreError(
                f"{self._marker} is damaged ({error}); delete what is below {self._output} to "
                "start again"
            ) from error
        return found


def _age_seconds(marker: Mapping[str, Any]) -> float | None:
    """Age of the last sign of life; None if the run has ended in good order."""
    if marker.get("alive") is None:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(marker["alive"])).total_seconds()


@contextmanager
def claimed(output: RemotePath, identity: Mapping[str, str], run: str) -> Iterator[Claim]:
    """Have an output to oneself.

    Parameters
    ----------
    output
        The store to make.
    identity
        Of the run.
    run
        Identifies the run's folder, which only one process has.

    Raises
    ------
    StoreMismatchError
        Another run is writing it, or one of another configuration or input has left it unfinished.
    StoreError
        There is something else.
    """
    claim = Claim(output, identity, run)
    claim.take()
    ended = Event()
    thread = Thread(target=claim.beat, args=(ended,), name="qmgen-claim", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        ended.set()
        thread.join()
        claim.end()
