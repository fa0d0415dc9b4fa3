"""Numbered lines of a text file, plain or gzip."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

from qmgen.errors import InputError

# A longer line belongs to no molecule file, and reading it whole would not be constant memory.
MAX_LINE_BYTES = 1 << 20


class Line(NamedTuple):
    """One line without its end; `number` counts from 1."""

    number: int
    text: str


class LineReader:
    """Read a UTF-8 file line by line, with push-back.

    Parameters
    ----------
    path : Path
        File to read; one that ends in ``.gz`` is unpacked on the fly.

    Raises
    ------
    InputError
        The file can't be opened. `next` raises it where the file is damaged, not UTF-8, or has a
        line longer than 1 MiB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0
        self._pushed: list[Line] = []
        try:
            # Bytes, so that a decoding error has a line number.
            self._file: IO[bytes] | gzip.GzipFile
            if path.suffix.lower() == ".gz":
                self._file = gzip.open(path, "rb")  # noqa: SIM115  # closed by __exit__
            else:
                self._file = path.open("rb")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; check the path") from None
        except OSError as error:
            raise InputError(
                f"{path}: can't be opened ({error.strerror or error}); "
                "name a file that you may read"
            ) from error

    def __enter__(self) -> "LineReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def next(self) -> Line | None:
        """Give the next line, None at the end of the file."""
        if self._pushed:
            return self._pushed.pop()
        number = self._number + 1
        try:
            raw = self._file.readline(MAX_LINE_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.path}, line {number}: can't be read ({error}); "
                "the file is damaged or cut short, copy or pack it again"
            ) from error
        if not raw:
            return None
        self._number = number
        if len(raw) > MAX_LINE_BYTES:
            raise InputError(
                f"{self.path}, line {number}: longer than {MAX_LINE_BYTES} bytes; "
                "give a text file with one record a line"
            )
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); "
                "convert the file, for example with iconv"
            ) from error
        return Line(number, text.rstrip("\r\n"))

    def push_back(self, lines: Sequence[Line]) -> None:
        """Let `next` give these lines again, the first one first."""
        self._pushed.extend(reversed(lines))
