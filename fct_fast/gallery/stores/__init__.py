"""Where galleries live: one module a store, found here by path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from fct_fast.errors import ConfigError
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery.stores.npy import open_npy_source
from fct_fast.gallery.stores.npy_sink import NpySink
from fct_fast.gallery.stores.protocol import Layout, Sink, Source

__all__ = ["Place", "open_sink", "open_source"]

Place: TypeAlias = str | os.PathLike[str]

# Name ending of a place -> the store. A folder and a sink without an ending are npy's; the stores to come join here.
_STORES = {"": "npy", ".npy": "npy"}


def open_source(source: Place | Mapping[str, Place], fs: FileSystem = DISK) -> Source:
    """The gallery at a path, or one whose "old", "side" and "ids" live apart.

    Raises ConfigError where no store reads the path, and what the store raises for a gallery that it cannot read.
    """
    places = source if isinstance(source, Mapping) else {"old": source}
    paths = {str(name): Path(place) for name, place in places.items()}
    for path in paths.values():
        _store(path)
    return open_npy_source(paths, fs)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem = DISK) -> Sink:
    """A gallery to be written at `place`; `token` marks the files of one job. Raises ConfigError as `open_source`."""
    _store(Path(place))
    return NpySink(Path(place), layout, token, fs)


def _store(path: Path) -> str:
    ending = "" if path.is_dir() else path.suffix
    if ending not in _STORES:
        raise ConfigError(
            f"no store of this version reads or writes {path}; give a .npy file or a folder of .npy shards"
        )
    return _STORES[ending]
