"""Prepares items in a thread while earlier ones are used."""

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

_Item = TypeVar("_Item")


def prefetched(items: Iterable[_Item], depth: int) -> Iterator[_Item]:
    """Give the same items in the same order, made ahead in a thread.

    The thread starts with the first item and has ended when the iterator is exhausted, closed or
    collected. What the items raise is raised here, after the items before it.

    Parameters
    ----------
    items : iterable
        What to prepare; only the thread uses it.
    depth : int
        Items that wait at most, beside the one that is being made; 0 for no thread.
    """
    if depth == 0:
        yield from items
        return
    ready: SimpleQueue[tuple[_Item] | BaseException | None] = SimpleQueue()
    room = Semaphore(depth)
    stop = Event()

    def work() -> None:
        try:
            for item in items:
                room.acquire()
                if stop.is_set():
                    return
                ready.put((item,))
            ready.put(None)
        # All of them, as the other thread would wait for ever otherwise.
        except BaseException as error:
            ready.put(error)

    thread = Thread(target=work, name="qmgen-prefetch", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            room.release()
            yield found[0]
    finally:
        stop.set()
        room.release()
        thread.join()
