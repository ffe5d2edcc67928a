"""What a backfill asks of a store: one protocol for what it reads from, one for what it writes to.

A store is one module (or one folder) that gives `open_source`, `open_sink` or both, and declares what it can. Nobody
asks which class it is. The contract is held by one test suite that every store passes
(`tests/gallery/test_store_contract.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fct_fast.gallery.stores.place import Place
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Array",
    "Capabilities",
    "Columns",
    "Layout",
    "LiveSink",
    "Loaded",
    "Rows",
    "Shard",
    "Sink",
    "Source",
    "Store",
    "spread",
]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Capabilities:
    """What a store can do.

    atomic_swap: a finished gallery appears as a whole, in one step. ids: rows carry ids of their own; elsewhere the id
    of a row is its position. payload: other columns of a row are kept. snapshot: a reader sees one version of the
    gallery whatever others write meanwhile; elsewhere the source must be frozen while a job runs. cutover: the store
    makes the new gallery live itself (`LiveSink`); elsewhere a pointer file does.
    """

    atomic_swap: bool
    ids: bool
    payload: bool
    snapshot: bool
    cutover: bool = False


@dataclass(frozen=True)
class Columns:
    """Where the columns of a source are, all in one store: "old" always, "side" and "ids" where they were named.

    Each place may name a column (`items.parquet#embedding`); where "side" has the location of "old" it is another
    column of the same rows.
    """

    old: Place
    side: Place | None = None
    ids: Place | None = None


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of a gallery, in its own order; what is committed as one."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Rows:
    """Rows of a source: old [n, old_dim], side [n, side_dim] or None (float32 or float16, row-contiguous), ids [n] of
    `Source.ids_dtype` or None where ids are row positions, payload: the user's other columns, n rows, or None."""

    old: Array
    side: Array | None = None
    ids: Array | None = None
    payload: pa.Table | None = None


@dataclass(frozen=True)
class Layout:
    """What is written: rows x dim values of `dtype`, with ids of `ids_dtype` (None: row positions), cut in shards.

    payload: the Arrow schema of the payload columns, serialised (`pa.Schema.serialize().to_pybytes()`), b"" where there
    are none. form: how the source's store holds the gallery, as plain JSON values; `form["store"]` names that store,
    `form["id"]` and `form["vector"]` its columns of ids and old embeddings where they have names. A sink takes from it
    what it can use, the same store usually all: its names, its kind of index.
    """

    rows: int
    dim: int
    dtype: np.dtype[Any]
    ids_dtype: np.dtype[Any] | None
    shard_rows: int
    payload: bytes = b""
    form: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize + (self.ids_dtype.itemsize if self.ids_dtype else 0)

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def shard(self, index: int) -> Shard:
        return Shard(index, index * self.shard_rows, min((index + 1) * self.shard_rows, self.rows))


@dataclass(frozen=True)
class Loaded:
    """A shard read back from a sink: new [n, dim], ids [n] or None, payload or None, and the digest of what is
    stored."""

    new: Array
    ids: Array | None
    payload: pa.Table | None
    digest: bytes


def spread(rows: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` evenly spaced positions of `rows`, rising, the first and the last among them."""
    return np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(np.int64))


class Source(Protocol):
    """A gallery to read. It is never changed."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def places(self) -> Mapping[str, str]:
        """Where "old", "side" and "ids" are, each as a place that opens it again."""

    @property
    def rows(self) -> int: ...

    @property
    def dims(self) -> Mapping[str, int]:
        """Values a row of "old" and, where there is one, of "side"."""

    @property
    def ids_dtype(self) -> np.dtype[Any] | None:
        """Of the ids, which are unique: an integer dtype or fixed-width text; None where ids are row positions."""

    @property
    def payload(self) -> bytes:
        """The serialised Arrow schema of the payload columns, b"" where there are none; see `Layout`."""

    @property
    def form(self) -> Mapping[str, Any]:
        """How this store holds the gallery; see `Layout`. Plain JSON values."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory, payload included (an estimate where its width varies)."""

    @property
    def held_bytes(self) -> int:
        """Bytes that stay in memory beside the shards, such as an index that can only be loaded whole."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know before relying on these rows, in sentences: for example that they are lossy."""

    @property
    def spaces(self) -> Mapping[str, SpaceFingerprint]:
        """The fingerprints that "old" and "side" carry."""

    def identity(self) -> dict[str, Any]:
        """What tells this gallery from another or from a changed one, as plain JSON values; read anew at each call."""

    def read(self, shard: Shard) -> Rows:
        """The rows of one shard. Called from one thread of the job at a time, mostly for rising shards."""

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        """The rows at some positions, in the order given; without payload. Only asked of a source that is joined by id
        to another one, so it may be slow where positions are far apart, but must bound its memory."""

    def sample(self, count: int) -> Rows:
        """About `count` rows, fewer only where the gallery has fewer, the same at each call: spread over the gallery as
        far as the store can do that cheaply. Payload may be left out."""

    def all_ids(self) -> Array | None:
        """The ids of all rows, None where they are row positions."""

    def overlaps(self, place: Place) -> bool:
        """Whether writing to `place` would change this gallery."""

    def close(self) -> None: ...


class Sink(Protocol):
    """A gallery to write, beside its final place until `publish`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def place(self) -> str:
        """The final place, as text that opens it again."""

    @property
    def free_bytes(self) -> int | None:
        """Bytes that can still be written there, None where that cannot be known."""

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that writing, or building an index at the end, needs beside the shards."""

    @property
    def build_seconds(self) -> float:
        """An estimate of what `publish` takes beyond moving what is there: building an index. 0 where nothing is."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of the gallery that will be written, in sentences."""

    def refuse_existing(self) -> None:
        """Raise StoreError where something is already at the final place."""

    def begin(self) -> None:
        """Make ready for `write`; also after a crash, whose leftovers are removed."""

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        """Put one shard on disk; when this returns, a power cut no longer takes it. Writing it again replaces it.

        Returns a SHA-256 over all that is stored of these rows, which `load` finds again.
        """

    def load(self, shard: Shard) -> Loaded:
        """Read a shard back, before or after `publish`. Raises StoreError where that cannot be done."""

    def fault(self, shards: Collection[int]) -> str | None:
        """A quick look at some shards: a sentence when one is missing or has another size."""

    def where(self, shard: Shard) -> str:
        """The file, or other place, of a shard, for messages."""

    def publish(self, space: SpaceFingerprint | None) -> None:
        """Stamp `space`, build what has to be built, and make the gallery appear at its final place.

        Does nothing where that has been done; finishes what a crash left half done. Raises StoreError where something
        else is at the final place.
        """

    @property
    def published(self) -> bool: ...

    @property
    def space(self) -> SpaceFingerprint | None:
        """The fingerprint stamped on what was published."""

    def state(self) -> str:
        """A short text that changes when somebody changes what was published (sizes and times)."""

    def close(self) -> None: ...


class LiveSink(Sink, Protocol):
    """A sink whose store makes the new gallery live itself: what `capabilities.cutover` promises."""

    def cut_over(self) -> None:
        """Make the published gallery the live one, in one step; again is a no-op.

        Raises StoreError, with nothing changed, where the live gallery is not the one that the job read.
        """

    def roll_back(self) -> None:
        """Undo `cut_over`, in one step; again is a no-op."""

    @property
    def live(self) -> bool:
        """Whether this gallery is the live one."""


class Store(Protocol):
    """What the module of a store gives. Raises ConfigError, StoreError, ShapeError, DtypeError, SpaceError, each with
    a sentence that names the place."""

    def open_source(self, columns: Columns, fs: Any) -> Source: ...

    def open_sink(self, place: Place, layout: Layout, token: str, fs: Any) -> Sink:
        """Touches nothing; `token` marks what belongs to one job ("" where only `refuse_existing` and facts are
        wanted)."""
