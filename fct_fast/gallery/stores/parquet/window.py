"""A window that moves forward over a part of a file, so that small reads become few."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ReadAt", "Window"]

ReadAt = Callable[[memoryview, int], None]
"""Fills a buffer from an offset of a file on."""


class Window:
    """Bytes of a file up to `end`, read at least `least` at a time."""

    def __init__(self, read_at: ReadAt, end: int, least: int) -> None:
        self._read_at, self._end, self._least = read_at, end, least
        self._buffer, self._start, self._filled = bytearray(), 0, 0

    def get(self, place: int, count: int) -> memoryview:
        """`count` bytes from `place` on, fewer where the file ends before; valid until the next call."""
        count = min(count, self._end - place)
        if not self._start <= place <= place + count <= self._start + self._filled:
            size = max(count, min(self._least, self._end - place))
            if size > len(self._buffer):
                self._buffer = bytearray(size)
            self._filled = 0
            self._read_at(memoryview(self._buffer)[:size], place)
            self._start, self._filled = place, size
        return memoryview(self._buffer)[place - self._start : place - self._start + count]
