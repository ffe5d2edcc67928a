"""Where the rows lie in a FAISS index file, found without loading it.

FAISS reads an index as a whole: a gallery larger than memory cannot be read, and of files with one flipped bit some
make it allocate terabytes or crash (`docs/decisions.md` has the count). So the file is walked here, field by field, and
only what is small is read. The kinds are those of FAISS's `index_write.cpp`, each named by four letters; FAISS itself
reads and writes them unchanged since 2021 and older, other names mean another form, which is refused.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import DtypeError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_parts import (
    list_sizes,
    product_quantizer,
    scalar_quantizer,
    skip_direct_map,
    transform,
    unsupported,
)
from fct_fast.gallery.stores.faiss_walk import Cursor, Pieces

__all__ = ["Index", "Metric", "read_index_layout"]

Metric = Literal["ip", "l2"]
I64 = npt.NDArray[np.int64]

_METRICS: dict[int, Metric] = {0: "ip", 1: "l2"}
_NO_IDS = range(0)
_NONE = np.zeros(0, np.int64)
_MAX_DIM = 1 << 20  # FAISS's own limit
_MAX_DEPTH = 6


@dataclass(frozen=True)
class Index:
    """An index, or one inside another.

    kind: as `faiss.index_factory` names it, nearly. plain: the kind that holds the same rows whole, which a sink can
    build. start: its first byte. rows, dim, metric; counted: rows as FAISS counts them. code_size: bytes of a row.
    sizes, offsets, id_offsets: of each run of codes the number of rows, the byte where it begins, and where its ids
    begin: one run without ids, or one for each inverted list. id_map: the bytes of the ids of all rows, by position.
    codec: a FAISS index without rows that decodes the codes, () where they are float32. transform: the same of what was
    applied to rows before. settings: what FAISS stores for searching and building, by its names. stop: the size of the
    file, known of the outermost index.
    """

    kind: str
    plain: str
    start: int
    dim: int
    rows: int
    metric: Metric
    counted: int
    code_size: int = 0
    sizes: I64 = field(default_factory=lambda: _NONE)
    offsets: I64 = field(default_factory=lambda: _NONE)
    id_offsets: I64 | None = None
    id_map: range = _NO_IDS
    codec: Pieces = ()
    transform: Pieces = ()
    settings: Mapping[str, int] = field(default_factory=dict)
    stop: int = 0


def read_index_layout(path: Path, fs: FileSystem) -> Index:
    """Walk an index file. Raises CorruptError for what is damaged, cut short or too long, DtypeError for what is no
    index or of a kind that is not read, StoreError where the file cannot be read."""
    fd = fs.open_file(path)
    try:
        at = Cursor(fs, fd, path)
        index = _index(at, 0)
        at.require(at.at == at.size, f"the index ends at byte {at.at}, but the file has {at.size}")
    finally:
        fs.close_file(fd, path)
    return dataclasses.replace(index, stop=at.size)


def _index(at: Cursor, depth: int) -> Index:
    start, name = at.at, at.code() if at.size - at.at >= 4 else ""
    at.require(depth < _MAX_DEPTH, "indexes lie in each other without end")
    if name in ("IxFI", "IxF2", "IxFl"):
        return _flat(at, start)
    if name == "IxSQ":
        return _scalar(at, start)
    if name == "IxPq":
        return _product(at, start)
    if name in ("IwFl", "IwSq", "IwPQ"):
        return _inverted(at, start, name, depth)
    if name in ("IHNf", "IHNs", "IHNp"):
        return _graph(at, start, depth)
    if name in ("IxMp", "IxM2"):
        return _mapped(at, start, "IDMap2" if name == "IxM2" else "IDMap", depth)
    if name == "IxPT":
        return _transformed(at, start, depth)
    if name == "IxRF":
        return _refined(at, start, depth)
    if name.startswith("IB"):
        raise DtypeError(f"{at.path} is a binary index ({name}), whose rows are bits; an upgrade needs float rows")
    if name == "null":
        raise DtypeError(f"{at.path} was written without its vectors; write it whole with faiss.write_index")
    if name[:1] != "I":
        raise DtypeError(f"{at.path} is no FAISS index: it begins with {name!r}; give one written by faiss.write_index")
    raise DtypeError(unsupported(at.path, name))


def _header(at: Cursor, start: int, kind: str) -> Index:
    """What every index begins with."""
    dim, rows, _, _, trained, metric = at.fields("iqqq?i")
    if metric not in _METRICS:
        raise DtypeError(
            f"{at.path} searches by the metric {metric} of FAISS, which is no inner product or L2 distance; upgraded "
            f"rows are compared by one of these two"
        )
    at.require(1 <= dim <= _MAX_DIM and rows >= 0 and trained, f"it says {rows} rows of {dim} values")
    return Index(kind, kind, start, dim, rows, _METRICS[metric], rows)


def _one_run(at: Cursor, index: Index, codes: range, code_size: int) -> Index:
    at.require(len(codes) == index.rows * code_size, f"it says {index.rows} rows and holds {len(codes)} bytes of them")
    sizes, offsets = np.array([index.rows]), np.array([codes.start])
    return dataclasses.replace(index, code_size=code_size, sizes=sizes, offsets=offsets)


def _flat(at: Cursor, start: int) -> Index:
    index = _header(at, start, "Flat")
    return _one_run(at, index, at.vector(4), 4 * index.dim)


def _rowless(index: Index, *rest: bytes | range) -> Pieces:
    """The header of an index that says 0 rows, and what follows."""
    return range(index.start, index.start + 8), bytes(8), range(index.start + 16, index.start + 37), *rest


def _scalar(at: Cursor, start: int) -> Index:
    index = _header(at, start, "SQ")
    kind, code_size = scalar_quantizer(at, index.dim)
    middle, codes = range(start + 37, at.at), at.vector(1)
    index = dataclasses.replace(index, kind=kind, plain="Flat", codec=_rowless(index, middle, bytes(8)))
    return _one_run(at, index, codes, code_size)


def _product(at: Cursor, start: int) -> Index:
    index = _header(at, start, "PQ")
    kind, code_size = product_quantizer(at, index.dim)
    middle, codes = range(start + 37, at.at), at.vector(1)
    codec = _rowless(index, middle, bytes(8), at.skip(9))
    index = dataclasses.replace(index, kind=kind, plain="Flat", codec=codec)
    return _one_run(at, index, codes, code_size)


def _inverted(at: Cursor, start: int, name: str, depth: int) -> Index:
    index = _header(at, start, "IVF")
    lists, probes = at.fields("QQ")
    coarse = _index(at, depth + 1)
    at.require(coarse.rows == lists and coarse.dim == index.dim, "its coarse quantiser does not fit its lists")
    head = range(start + 37, at.at)
    skip_direct_map(at)
    middle = at.at
    if name == "IwFl":
        kind, code_size = "Flat", 4 * index.dim
    elif name == "IwSq":
        kind, code_size = scalar_quantizer(at, index.dim)
        at.require(at.fields("Q?")[0] == code_size, "its codes have two sizes")
    else:
        again = at.fields("?Q")[1]
        kind, code_size = product_quantizer(at, index.dim)
        at.require(again == code_size, "its codes have two sizes")
    empty = b"ilar" + struct.pack("<QQ", lists, code_size) + b"sprs" + bytes(8)
    codec = _rowless(index, head, bytes(9), range(middle, at.at), empty) if kind != "Flat" else ()
    sizes = list_sizes(at, lists, code_size)
    held = float(sizes.sum(dtype=np.float64))  # FAISS counts rows with NaN, too, and puts them in no list
    at.require(held <= index.rows, f"it says {index.rows} rows, but its lists have {held:.0f}")
    base = at.skip(int(held) * (code_size + 8)).start
    offsets = base + (np.cumsum(sizes) - sizes) * (code_size + 8)
    graph = coarse.kind if coarse.kind.startswith("HNSW") else ""
    cells = f"IVF{lists}" + (f"_{graph}" if graph else "")
    return dataclasses.replace(
        index,
        kind=f"{cells},{kind}",
        plain=f"{cells},Flat",
        rows=int(held),
        code_size=code_size,
        sizes=sizes,
        offsets=offsets,
        id_offsets=offsets + sizes * code_size,
        codec=codec,
        settings={"nprobe": probes},
    )


def _graph(at: Cursor, start: int, depth: int) -> Index:
    index = _header(at, start, "HNSW")
    at.vector(8)
    links = at.vector(4)
    at.require(8 <= len(links) <= 1024, "its graph has levels without end, or none")
    neighbours = at.array("<i4", links)
    levels = at.vector(4)
    for item in (8, 4):
        at.vector(item)
    _, _, construction, search, _ = at.fields("iiiii")
    at.require(len(levels) == 4 * index.rows and neighbours[1] > 1, "its graph does not fit its rows")
    storage = _index(at, depth + 1)
    sound = (storage.rows, storage.dim, storage.plain) == (index.rows, index.dim, "Flat")
    at.require(sound and not storage.id_map and not storage.transform, "its rows do not fit its graph")
    kind = f"HNSW{neighbours[1] // 2}"
    return dataclasses.replace(
        storage,
        kind=kind if not storage.codec else f"{kind}_{storage.kind}",
        plain=kind,
        start=start,
        metric=index.metric,
        settings={"efConstruction": construction, "efSearch": search},
    )


def _mapped(at: Cursor, start: int, name: str, depth: int) -> Index:
    outer = _header(at, start, name)
    inner = _index(at, depth + 1)
    ids = at.vector(8)
    at.require(
        (inner.counted, inner.dim, len(ids)) == (outer.rows, outer.dim, 8 * outer.rows) and not inner.id_map,
        f"it says {outer.rows} rows, holds {inner.counted} and {len(ids) // 8} ids",
    )
    return dataclasses.replace(
        inner, kind=f"{name},{inner.kind}", plain=f"{name},{inner.plain}", start=start, metric=outer.metric, id_map=ids
    )


def _transformed(at: Cursor, start: int, depth: int) -> Index:
    outer = _header(at, start, "IxPT")
    count = at.field("i")
    at.require(count >= 0, "it has fewer than 0 transformations")
    names = [transform(at, outer.dim) for _ in range(count)]
    undone = _rowless(outer, range(start + 37, at.at), b"null") if names else ()
    inner = _index(at, depth + 1)
    at.require((inner.counted, inner.dim) == (outer.rows, outer.dim) and not inner.transform, "its parts do not fit")
    kind = ",".join([*names, inner.kind])
    return dataclasses.replace(inner, kind=kind, start=start, metric=outer.metric, transform=undone)


def _refined(at: Cursor, start: int, depth: int) -> Index:
    """A coarse index and the same rows in a finer one, which is the one that is read."""
    outer = _header(at, start, "IxRF")
    base, fine = _index(at, depth + 1), _index(at, depth + 1)
    at.field("f")
    at.require(
        base.counted == fine.rows == outer.rows and base.dim == fine.dim == outer.dim and fine.plain == "Flat",
        "its two indexes do not have the same rows",
    )
    kind = f"{base.kind},Refine({fine.kind})"
    return dataclasses.replace(
        fine, kind=kind, plain=base.plain, start=start, metric=outer.metric, settings=base.settings
    )
