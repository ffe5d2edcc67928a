"""The values of a column chunk one after the other, read to where they are wanted."""

from __future__ import annotations

from fct_fast.gallery.stores.npy_column import byte_view
from fct_fast.gallery.stores.parquet.pages import Chunk, Page, Pages
from fct_fast.gallery.stores.parquet.window import ReadAt
from fct_fast.gallery.stores.protocol import Array

__all__ = ["ChunkReader"]


class ChunkReader:
    """Reads forward through a chunk; raises what `Pages` raises, when `done` values were given or left out."""

    def __init__(self, chunk: Chunk, read_at: ReadAt) -> None:
        self._pages, self._read_at, self._width = Pages(chunk, read_at), read_at, chunk.width
        self._page, self._used = Page(0, None, 0), 0
        self.done = 0

    def fill(self, out: Array) -> None:
        """The next values, into `out`, uint8 [n, width] in one piece."""
        start = 0
        while start < len(out):
            page, used, count = self._take(len(out) - start)
            part = out[start : start + count]
            if page.values is not None:
                part[:] = page.values[used : used + count]
            else:
                self._read_at(byte_view(part), page.offset + used * self._width)
            start += count
            self.done += count

    def skip(self, count: int) -> None:
        """Leave out values; their levels are checked all the same."""
        while count:
            step = self._take(count)[2]
            count -= step
            self.done += step

    def _take(self, most: int) -> tuple[Page, int, int]:
        """A page with values left, how many of it were used before, and how many to use now."""
        while self._used == self._page.count:
            self._page, self._used = self._pages.next(), 0
        used, count = self._used, min(most, self._page.count - self._used)
        self._used += count
        return self._page, used, count
