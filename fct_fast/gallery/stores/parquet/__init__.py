"""The Parquet store: a file, a folder of them or a pattern; Arrow (Feather) files are read, too.

`items.parquet#embedding` names a column; without a name, the only column of vectors is meant. Ids are in the column
`id`, where there is one, or in a named one; all other columns are payload. Vectors are FixedSizeList of float or
halffloat, fixed-size binary, or lists of one length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet.source import ParquetSource
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Columns, Layout

if TYPE_CHECKING:
    from fct_fast.gallery.stores.parquet.sink import ParquetSink

__all__ = ["ParquetSource", "open_sink", "open_source"]


def open_source(columns: Columns, fs: FileSystem) -> ParquetSource:
    return ParquetSource(columns, fs)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem) -> ParquetSink:
    from fct_fast.gallery.stores.parquet.sink import ParquetSink

    return ParquetSink(place, layout, token, fs)
