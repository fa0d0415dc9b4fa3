"""Programs that one process compiles for all that share JAX's cache of them."""

import hashlib
from collections.abc import Callable, Hashable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
from filelock import FileLock

P = ParamSpec("P")
T = TypeVar("T")

# A process that waits longer compiles the program itself; the slowest take some ten seconds.
_PATIENCE_S = 300


def shared_program(**jit_options: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """`jax.jit` of a function, whose programs are compiled by one process at a time.

    Workers of a run meet the same programs at the same time. The first one to need a program
    compiles it, while others wait, and then load it from `jax_compilation_cache_dir`. Without such
    a folder this is `jax.jit`.

    Parameters
    ----------
    **jit_options
        As for `jax.jit`.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        program = jax.jit(function, **jit_options)
        known: set[Hashable] = set()

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            leaves, structure = jax.tree.flatten((args, kwargs))
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                signature = (structure, *map(_signature, leaves))
                if signature not in known:
                    known.add(signature)
                    _compile_in_turn(program, *args, **kwargs)
            return program(*args, **kwargs)

        return call

    return decorate


def _signature(leaf: Any) -> Hashable:
    """What a program depends on: sizes and kind of an array, the value of anything else."""
    return (leaf.shape, str(leaf.dtype)) if hasattr(leaf, "dtype") else leaf


def _compile_in_turn(program: Any, *args: Any, **kwargs: Any) -> None:
    """Compile a program into the folder, or wait for another process that does.

    JAX keeps what is compiled here for the call that follows.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder or "://" in folder:
        return
    lowered = program.lower(*args, **kwargs)
    name = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    lock = FileLock(Path(folder) / f"{name}.lock", timeout=_PATIENCE_S)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        # A folder that can't be written to, a file system without locks (NotImplementedError), or a
        # compiler that hangs elsewhere (a Timeout is an OSError): what is lost is time only.
        lowered.compile()
        return
    try:
        lowered.compile()
    finally:
        lock.release()
