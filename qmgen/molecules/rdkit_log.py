"""RDKit's error messages as data instead of lines on stderr."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from rdkit import rdBase

_IN_TURN = RLock()
_TIME_STAMP = re.compile(r"^\[\d\d:\d\d:\d\d\] ")


@contextmanager
def captured_errors() -> Iterator[Any]:
    """Keep RDKit silent and collect its error messages; the former log state comes back.

    The order matters: a capture opened inside a block stays enabled, one outside it does not. RDKit
    has one log for all threads and puts back what it found: of two that captured at the same time,
    the one that ends last would have RDKit write to a log that is no more, and the process die. So
    threads take turns.

    Yields
    ------
    rdkit.rdBase.CaptureErrorLog
        Give it to `log_lines` before the context ends.
    """
    with _IN_TURN, rdBase.BlockLogs(), rdBase.CaptureErrorLog() as capture:
        yield capture


def log_lines(capture: Any) -> list[str]:
    """Split a captured log into lines without time stamps, blank lines and call stacks."""
    try:
        messages = capture.messages
    except UnicodeDecodeError as error:
        # RDKit quotes columns of bytes and may cut a character in two.
        messages = error.object.decode("utf-8", errors="replace")
    lines: list[str] = []
    in_stack = False
    for raw in messages.splitlines():
        in_stack = (in_stack or raw.strip() == "****") and not _TIME_STAMP.match(raw)
        line = _TIME_STAMP.sub("", raw).strip()
        if line and not in_stack:
            lines.append(line)
    return lines
