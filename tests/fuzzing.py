"""Damaged text and values for Hypothesis, the same in every run."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmgen.errors import QmgenError

_Value = TypeVar("_Value")
_QUICK = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[*HealthCheck],
)
_SLOW = settings(_QUICK, max_examples=3000)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, -1, 2, 255, 2**31, 2**63])
    | st.floats()
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Anything that JSON or YAML can say."""


def fuzz(
    check: Callable[[Any], None], strategy: st.SearchStrategy[Any], quick_examples: int = 40
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Make a quick and a slow test of something that must hold for every example."""
    quick: Callable[..., None] = settings(_QUICK, max_examples=quick_examples)(
        given(strategy)(check)
    )
    slow: Callable[..., None] = _SLOW(given(strategy)(check))
    return quick, pytest.mark.slow(slow)


def or_refused(path: Path, read: Callable[[], _Value]) -> _Value | None:
    """Give what reading a file gives; None where it is refused with an error that names it."""
    try:
        return read()
    except QmgenError as error:
        message = str(error)
    assert path.name in message
    return None


@st.composite
def damaged_bytes(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Arbitrary bytes, or a good file with some pieces replaced, repeated or cut out."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(originals)))
    tokens = st.sampled_from([b"\n", b"\r", b" ", b"\t", b'"', b",", b"\0", b"9", b"-1", b"1e999"])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 1, 4, 40])))
        piece = draw(st.binary(max_size=4) | tokens | st.just(bytes(data[start : start + 60])))
        data[start:stop] = piece
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, original: Any) -> Any:
    """A good value with some of its parts replaced, removed or added to."""
    damaged = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        node = damaged
        while isinstance(node, dict | list) and node:
            keys = [*node] if isinstance(node, dict) else [*range(len(node))]
            key = draw(st.sampled_from(keys))
            deeper = node[key]
            if isinstance(deeper, dict | list) and deeper and draw(st.integers(0, 5)):
                node = deeper
                continue
            action = draw(st.integers(0, 3))
            if action == 0:
                del node[key]
            elif action == 1 and isinstance(node, dict):
                node[draw(st.text(max_size=5))] = draw(VALUES)
            else:
                node[key] = draw(VALUES)
            break
    return damaged
