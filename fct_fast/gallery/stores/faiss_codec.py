"""Codes of a FAISS index, decoded to rows: by FAISS itself, from an index that holds the quantiser of the file and none
of its rows. A rotation that was applied before is undone here, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError, DtypeError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_layout import Index
from fct_fast.gallery.stores.faiss_walk import Pieces, assembled

__all__ = ["Codec"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

_FLAGS = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE | faiss.IO_FLAG_PQ_SKIP_SDC_TABLE  # tables of searches
_ORTHONORMAL = 1e-4  # largest deviation of the products of a rotation's rows from 0 and 1


class Codec:
    """Decodes the codes of `index`. Raises CorruptError where its quantiser does not load, DtypeError where its
    transformation cannot be undone. quantiser: the FAISS index without rows, None where codes are float32 rows."""

    def __init__(self, index: Index, path: Path, fs: FileSystem) -> None:
        self.quantiser = _load(index.codec, path, fs) if index.codec else None
        self._undone = list(_undone(_load(index.transform, path, fs), path)) if index.transform else []
        self._list_bytes = 0
        if self.quantiser is not None:
            if index.id_offsets is not None:
                self._list_bytes = ((len(index.sizes) - 1).bit_length() + 7) // 8
            if self.quantiser.sa_code_size() != index.code_size + self._list_bytes:
                raise CorruptError(f"{path} is damaged: its codes do not fit its quantiser; restore it")

    @property
    def plain(self) -> bool:
        """Whether codes are the rows themselves."""
        return self.quantiser is None and not self._undone

    def decode(self, codes: U8, lists: npt.NDArray[np.int64]) -> F32:
        """Rows [n, dim] of codes [n, code_size] that lie in `lists` [n], which only matters for an IVF."""
        rows: F32 = codes.view(np.float32) if self.quantiser is None else self._decoded(codes, lists)
        if self._undone:
            with np.errstate(all="ignore"):  # rows that are NaN or Inf stay so, and are found by others
                wide = rows.astype(np.float64)
                for offset, matrix in self._undone:
                    wide -= offset
                    wide = wide if matrix is None else wide @ matrix
                rows = wide.astype(np.float32)
        return rows

    def _decoded(self, codes: U8, lists: npt.NDArray[np.int64]) -> F32:
        if self._list_bytes:  # FAISS wants the list of a code in front of it
            numbers = lists.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : self._list_bytes]
            codes = np.concatenate([numbers, codes], axis=1)
        assert self.quantiser is not None
        rows: F32 = self.quantiser.sa_decode(codes)
        return rows


def _load(pieces: Pieces, path: Path, fs: FileSystem) -> Any:
    try:
        return faiss.deserialize_index(assembled(pieces, fs, path), _FLAGS)
    except (RuntimeError, MemoryError) as error:
        raise CorruptError(f"{path} is damaged: FAISS cannot read its quantiser or its rotation; restore it") from error


def _undone(index: Any, path: Path) -> Iterator[tuple[F64, F64 | None]]:
    """What undoes the transformations, the last one first: an offset to subtract and a matrix to multiply by."""
    for number in reversed(range(index.chain.size())):
        step = faiss.downcast_VectorTransform(index.chain.at(number))
        if isinstance(step, faiss.CenteringTransform):
            yield faiss.vector_to_array(step.mean).astype(np.float64) * -1, None
        if not isinstance(step, faiss.LinearTransform):
            continue  # unit rows stay unit rows
        matrix = faiss.vector_to_array(step.A).reshape(step.d_out, step.d_in).astype(np.float64)
        deviation = np.abs(matrix @ matrix.T - np.eye(step.d_out)).max()
        if not deviation <= _ORTHONORMAL:  # NaN neither
            raise DtypeError(
                f"{path} transforms its rows by a matrix that is no rotation, which cannot be undone; use the original "
                f"embeddings"
            )
        yield faiss.vector_to_array(step.b).astype(np.float64) if step.have_bias else np.zeros(step.d_out), matrix
