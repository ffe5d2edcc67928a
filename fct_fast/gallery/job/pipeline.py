"""Read, compute and write at the same time: one thread reads ahead, the caller computes, one thread writes behind.

At most one item is read ahead and one is being written while the next is computed, so memory is bounded by a few items
whatever is slowest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["overlapped"]

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], None],
) -> Generator[Item, None, None]:
    """Pass each item through read, compute and write, and yield it once it is written; writes keep the order.

    The first error of any step ends it: nothing is written after it, and it is raised here. When the caller stops (an
    error, Ctrl-C, or by closing the iterator), the write in progress is completed and the others are dropped.
    """
    waiting = iter(items)
    ahead: deque[tuple[Item, Future[Read]]] = deque()
    behind: deque[tuple[Item, Future[None]]] = deque()
    with ThreadPoolExecutor(1, "fct-read") as reader, ThreadPoolExecutor(1, "fct-write") as writer:
        try:
            while True:
                for item in islice(waiting, 2 - len(ahead)):
                    ahead.append((item, reader.submit(read, item)))
                if not ahead:
                    break
                item, reading = ahead.popleft()
                made = compute(item, reading.result())
                if behind:
                    yield _finished(behind)
                behind.append((item, writer.submit(write, item, made)))
                del made, reading
            while behind:
                yield _finished(behind)
        except BaseException:
            reader.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=False, cancel_futures=True)
            raise


def _finished(behind: deque[tuple[Item, Future[None]]]) -> Item:
    item, writing = behind.popleft()
    writing.result()
    return item
