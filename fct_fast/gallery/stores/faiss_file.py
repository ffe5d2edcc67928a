"""The FAISS store: an index file (`.faiss`, `.index`), read as the gallery of rows that it holds, and written anew.

`gallery.faiss?index=IVF1024,Flat&metric=l2` says what a sink is to be: a string of `faiss.index_factory` and "ip" or
"l2"; without, it is of the kind of the source, or Flat and inner product. Beside `gallery.faiss`, `gallery.space.json`
holds the fingerprint of the space.
"""

from __future__ import annotations

from fct_fast.errors import ConfigError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_kind import OPTIONS
from fct_fast.gallery.stores.faiss_sink import FaissSink
from fct_fast.gallery.stores.faiss_source import FaissSource
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Columns, Layout

__all__ = ["open_sink", "open_source"]


def open_source(columns: Columns, fs: FileSystem) -> FaissSource:
    for place in (columns.old, columns.side, columns.ids):
        if place is not None and place.column:
            raise ConfigError(
                f"{place} names a column, which an index does not have; give a place for each kind of row"
            )
        if place is not None and set(place.options) - set(OPTIONS):  # those of a sink, which is read again
            raise ConfigError(f"{place} has options, which are for writing; leave them out")
    return FaissSource(columns.old.path, columns.ids.path if columns.ids is not None else None, fs)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem) -> FaissSink:
    return FaissSink(place, layout, token, fs)
