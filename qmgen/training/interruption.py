"""Keeps Lightning quiet, and what Ctrl-C means."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl

# What is meant to be so here, and a deprecated function of torch that Lightning calls.
_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*available but not used.*",
    ".*AMP with fp16 is not supported on CPU.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's greetings, and warnings of what is meant to be so."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Turn what Lightning makes of Ctrl-C back into a `KeyboardInterrupt`.

    It exits the process or returns as if nothing had happened, depending on its release, and
    ignores later interrupts for good.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if trainer.state.status == "interrupted":
            raise KeyboardInterrupt from error
        raise
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    if trainer.state.status == "interrupted":
        raise KeyboardInterrupt
