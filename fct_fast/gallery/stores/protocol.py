"""What a backfill asks of a store: one protocol for what it reads from, one for what it writes to.

A store is one module that gives a `Source`, a `Sink` or both, and declares what it can. Nobody asks which class it is.
The contract is held by one test suite that every store passes (`tests/gallery/test_store_contract.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fct_fast.space import SpaceFingerprint

__all__ = ["Array", "Capabilities", "Digests", "Layout", "Loaded", "Rows", "Shard", "Sink", "Source"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Capabilities:
    """What a store can do.

    atomic_swap: a finished gallery appears as a whole, in one step. ids: rows carry ids of their own; elsewhere the id
    of a row is its position. payload: other columns of a row are kept. snapshot: a reader sees one version of the
    gallery whatever others write meanwhile; elsewhere the source must be frozen while a job runs.
    """

    atomic_swap: bool
    ids: bool
    payload: bool
    snapshot: bool


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
    """Rows of a source: old [n, old_dim], side [n, side_dim] or None, ids [n] or None where ids are row positions."""

    old: Array
    side: Array | None
    ids: Array | None


@dataclass(frozen=True)
class Layout:
    """What is written: rows x dim values of `dtype`, with ids of `ids_dtype` (None: row positions), cut in shards."""

    rows: int
    dim: int
    dtype: np.dtype[Any]
    ids_dtype: np.dtype[Any] | None
    shard_rows: int

    @property
    def row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize + (self.ids_dtype.itemsize if self.ids_dtype else 0)

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def shard(self, index: int) -> Shard:
        return Shard(index, index * self.shard_rows, min((index + 1) * self.shard_rows, self.rows))


@dataclass(frozen=True)
class Digests:
    """SHA-256 of the stored bytes of one shard: its vectors, and its ids (empty where ids are row positions)."""

    vectors: bytes
    ids: bytes = b""


@dataclass(frozen=True)
class Loaded:
    """A shard read back from a sink: new [n, dim], ids [n] or None, and the digests of the bytes they came from."""

    new: Array
    ids: Array | None
    digests: Digests


class Source(Protocol):
    """A gallery to read. It is never changed."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def places(self) -> Mapping[str, str]:
        """Where "old", "side" and "ids" are, as absolute paths or URIs."""

    @property
    def rows(self) -> int: ...

    @property
    def dims(self) -> Mapping[str, int]:
        """Values a row of "old" and, where there is one, of "side"."""

    @property
    def ids_dtype(self) -> np.dtype[Any] | None: ...

    @property
    def row_bytes(self) -> int: ...

    @property
    def spaces(self) -> Mapping[str, SpaceFingerprint]:
        """The fingerprints that "old" and "side" carry."""

    def identity(self) -> dict[str, Any]:
        """What tells this gallery from another or from a changed one, as plain JSON values; read anew at each call."""

    def read(self, shard: Shard) -> Rows:
        """The rows of one shard. Called from a thread of the job, one call at a time."""

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Rows:
        """The rows at some rising positions."""

    def overlaps(self, path: str) -> bool:
        """Whether writing to `path` would change this gallery."""


class Sink(Protocol):
    """A gallery to write, beside its final place until `publish`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def place(self) -> str:
        """The final place, as an absolute path or URI."""

    @property
    def free_bytes(self) -> int | None:
        """Bytes that can still be written there, None where that cannot be known."""

    def refuse_existing(self) -> None:
        """Raise StoreError where something is already at the final place."""

    def begin(self) -> None:
        """Make ready for `write`; also after a crash, whose leftovers are removed."""

    def write(self, shard: Shard, new: Array, ids: Array | None) -> Digests:
        """Put one shard on disk; when this returns, a power cut no longer takes it. Writing it again replaces it."""

    def load(self, shard: Shard) -> Loaded:
        """Read a shard back, before or after `publish`."""

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Array:
        """New rows at some rising positions."""

    def fault(self, shards: Collection[int]) -> str | None:
        """A quick look at some shards: a sentence when one is missing or has another size."""

    def where(self, shard: Shard) -> str:
        """The file, or other place, of a shard, for messages."""

    def publish(self, space: SpaceFingerprint | None) -> None:
        """Stamp `space` and make the gallery appear at its final place. Does nothing where that has been done.

        Raises StoreError where something else is at the final place.
        """

    @property
    def published(self) -> bool: ...

    @property
    def space(self) -> SpaceFingerprint | None:
        """The fingerprint stamped on what was published."""

    def state(self) -> str:
        """A short text that changes when somebody changes what was published (sizes and times)."""

    def close(self) -> None: ...
