"""Where galleries live: one module a store, found here by the place's scheme or ending, imported when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, cast

from fct_fast.errors import ConfigError, StoreError
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery.stores.place import Place, PlaceLike
from fct_fast.gallery.stores.protocol import Columns, Layout, Sink, Source, Store

__all__ = ["Join", "Place", "PlaceLike", "open_sink", "open_source"]

Join = Literal["row", "id"]

# Store -> its module, and the extra that installs what it needs. The stores to come join these tables.
_STORES = {
    "npy": ("npy", ""),
    "parquet": ("parquet", ""),
    "faiss": ("faiss_file", "faiss"),
    "lance": ("lance_dataset", "lance"),
    "postgres": ("postgres", "postgres"),
}
_SCHEMES = {"postgresql": "postgres", "postgres": "postgres"}
_ENDINGS = {
    ".npy": "npy",
    ".parquet": "parquet",
    ".arrow": "parquet",
    ".feather": "parquet",
    ".faiss": "faiss",
    ".index": "faiss",
    ".lance": "lance",
}
_FOLDERS = ("npy", "parquet")  # stores that write a folder of shards where a sink has no ending


def open_source(source: PlaceLike | Mapping[str, PlaceLike], fs: FileSystem = DISK, *, join: Join = "row") -> Source:
    """The gallery at a place, or one whose "old", "side" and "ids" are named apart.

    join: how side-information in a gallery of its own is joined, by row or by the ids of both. Raises ConfigError
    where no store reads a place, and what the store raises for a gallery that it cannot read.
    """
    named = dict(source) if isinstance(source, Mapping) else {"old": source}
    if "old" not in named or set(named) - {"old", "side", "ids"}:
        raise ConfigError(f"a source has 'old' and may have 'side' and 'ids', got {sorted(named)}")
    if join not in ("row", "id"):
        raise ConfigError(f"join is 'row' or 'id', got {join!r:.80}")
    old = Place.parse(named["old"])
    side, ids = (Place.parse(named[name], old) if name in named else None for name in ("side", "ids"))
    store = _store_of_source(old)
    if side is None or (side.gallery == old.gallery and side.column != old.column):
        return _module(store).open_source(Columns(old, side, ids), fs)
    from fct_fast.gallery.stores.joined import JoinedSource

    first = _module(store).open_source(Columns(old, ids=ids), fs)
    return JoinedSource(first, _module(_store_of_source(side)).open_source(Columns(side), fs), join)


def open_sink(place: PlaceLike, layout: Layout, token: str, fs: FileSystem = DISK) -> Sink:
    """A gallery to be written at `place`; `token` marks the files of one job. Raises ConfigError as `open_source`."""
    place = Place.parse(place)
    store = _named_store(place)
    if store is None:  # a folder: of the source's kind, where that writes folders
        like = layout.form.get("store", "")
        store = like if like in _FOLDERS else "npy"
    return _module(store).open_sink(place, layout, token, fs)


def _store_of_source(place: Place) -> str:
    store = _named_store(place)
    if store is not None:
        return store
    # A folder without an ending: what is in it or, for partitioned data sets, below it.
    for entry in sorted(place.path.rglob("*")):
        if entry.suffix in (".parquet", ".arrow", ".feather", ".npy") and not entry.name.startswith((".", "_")):
            return _ENDINGS[entry.suffix]
    raise StoreError(f"{place} holds no .npy, .parquet, .arrow or .feather file; check the path of the gallery")


def _named_store(place: Place) -> str | None:
    """The store that the scheme or the ending of a place names; None for a folder without one."""
    if place.scheme:
        if place.scheme in _SCHEMES:
            return _SCHEMES[place.scheme]
        raise ConfigError(f"no store of this version reads or writes {place}; its URIs are {', '.join(_SCHEMES)}://")
    path = place.path
    if path.suffix in _ENDINGS:
        return _ENDINGS[path.suffix]
    if path.is_dir() or not path.suffix:
        return None
    raise ConfigError(
        f"no store of this version reads or writes {place}; a name ends in {', '.join(_ENDINGS)}, or is a folder"
    )


def _module(store: str) -> Store:
    name, extra = _STORES[store]
    try:
        return cast(Store, importlib.import_module(f"{__name__}.{name}"))
    except ModuleNotFoundError as error:
        missing: Any = error.name or ""
        if not extra or missing.startswith("fct_fast"):
            raise
        raise ConfigError(
            f"the {store} store needs the package {missing!r}; install it with: pip install 'fct-fast[{extra}]'"
        ) from error
