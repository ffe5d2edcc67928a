"""Repetition and definition levels: do they say that every vector is whole and of one length?

Levels are a sequence of runs, of one value or of packed bits. Of vectors of one length they repeat themselves after a
few rows, so a page is checked by parsing these rows and comparing the rest with them.
"""

from __future__ import annotations

import numpy as np

__all__ = ["all_defined", "all_one_length"]


def all_one_length(data: memoryview, count: int, phase: int, dim: int) -> bool:
    """Whether of `count` repetition levels (0 begins a row, 1 goes on with it) exactly those begin a row where
    `phase` + position is a multiple of `dim`. Also False where the data end early."""
    place = done = 0  # bytes and levels that are checked
    marks = _Marks(phase % dim, dim)
    first = (0, 0)
    while done < count:
        step = _run(data, place, 1)
        if step is None:
            return False
        length, value, body, place = step
        length = min(length, count - done)
        if body is None:
            whole = marks.starts(done, length) == 0 if value == 1 else marks.starts(done, length) == length
            if value > 1 or not whole:
                return False
        elif not marks.match(body, done, length):
            return False
        done += length
        if (done - first[1]) % dim == 0 and done < count:
            skipped = _repeats(data, first[0], place, (count - done) // (done - first[1]))
            done += skipped * (done - first[1])
            place += skipped * (place - first[0])
            first = (place, done)
    return True


def all_defined(data: memoryview, count: int, level: int) -> bool:
    """Whether all of `count` definition levels are `level`, the highest: nothing is NULL. Also False where the data
    end early."""
    width = level.bit_length()
    group = sum(level << (width * i) for i in range(8)).to_bytes(width, "little")
    place = done = 0
    while done < count:
        step = _run(data, place, width)
        if step is None:
            return False
        length, value, body, place = step
        if body is None:
            if value != level:
                return False
        else:
            whole = min(length, count - done) // 8  # groups; the last one may be padded with anything
            if body[: whole * width] != group * whole:
                return False
            rest = min(length, count - done) - whole * 8
            tail = int.from_bytes(body[whole * width : (whole + 1) * width], "little")
            wanted = int.from_bytes(group, "little") & ((1 << (rest * width)) - 1)
            if rest and tail & ((1 << (rest * width)) - 1) != wanted:
                return False
        done += length
    return True


def _run(data: memoryview, place: int, width: int) -> tuple[int, int, memoryview | None, int] | None:
    """The run at `place`: its length, then its value or its packed bits, and where the next begins."""
    head = shift = 0
    while True:
        if place >= len(data) or shift > 28:
            return None
        byte = data[place]
        place += 1
        head |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if head & 1:
        end = place + (head >> 1) * width
        return ((head >> 1) * 8, 0, data[place:end], end) if head > 1 and end <= len(data) else None
    end = place + (width + 7) // 8
    return (head >> 1, int.from_bytes(data[place:end], "little"), None, end) if head and end <= len(data) else None


def _repeats(data: memoryview, start: int, end: int, most: int) -> int:
    """How many times, at most `most`, the bytes from start to end stand again after `end`."""
    size = end - start
    count = min(most, (len(data) - end) // size)
    # All of them do where the bytes are equal to those one period before.
    before, after = (np.frombuffer(data, np.uint8, count * size, place) for place in (start, end))
    differing = np.flatnonzero(before != after)
    return int(differing[0]) // size if len(differing) else count


class _Marks:
    """Where rows begin: at the positions that are `-phase` modulo `dim`."""

    def __init__(self, phase: int, dim: int) -> None:
        self._phase, self._dim = phase, dim

    def starts(self, position: int, length: int) -> int:
        """How many rows begin in `length` levels from `position` on."""
        at = self._phase + position
        return -(-(at + length) // self._dim) - -(-at // self._dim)

    def match(self, bits: memoryview, position: int, length: int) -> bool:
        """Whether packed levels from `position` on are 0 exactly where rows begin."""
        found = np.unpackbits(np.frombuffer(bits, np.uint8), count=length, bitorder="little")
        wanted = (np.arange(position + self._phase, position + self._phase + length) % self._dim) != 0
        return bool((found == wanted).all())
