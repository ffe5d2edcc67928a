"""How far the rows of a lossy FAISS index are from what was put in, as far as its quantiser tells."""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

__all__ = ["expected_error"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

_LEVELS = {0: 255, 1: 15, 2: 255, 3: 15, 6: 63}  # steps between the ends of a scalar quantiser's range, by its number
_FP16, _BF16 = 4, 7
_UNIFORM = (2, 3)  # one range for all dimensions

# The squared error of a PQ over the squared distance of a centroid to its nearest neighbour is that of a lattice, 1/12
# in one dimension, but larger, since k-means puts centroids where rows are. Fitted on five kinds of data, 1 to 16
# dimensions and 4 to 8 bits; there, the root of the error is met within a factor of 2 (`test_faiss_loss.py`).
_PQ_SCALE, _PQ_POWER = 0.17, 0.72
_PQ_MOST_DIMS, _PQ_MOST_BITS = 16, 12
_PQ_ROWS = 256


def expected_error(quantiser: Any, codes: U8, rows: F32) -> float | None:
    """The expected distance between a row and what comes out, relative to the length of a row: the root of the mean
    square. None where nothing can be said.

    quantiser: a FAISS index. codes [n, code_size] and rows [n, dim]: a sample of what it holds, and decoded.
    """
    with np.errstate(all="ignore"):  # of a damaged file
        squares = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64)) / max(1, len(rows))
        if isinstance(quantiser, (faiss.IndexScalarQuantizer, faiss.IndexIVFScalarQuantizer)):
            error: float | None = _scalar_error(quantiser.sq, codes)
        else:
            error = _product_error(quantiser.pq, codes)
    if error is None or not math.isfinite(error) or not 0 < squares < math.inf:
        return None
    return math.sqrt(error / squares)


def _scalar_error(sq: Any, codes: U8) -> float:
    """A row's expected squared error: each value lies anywhere between two steps. Values beyond the range that was
    learned lose more, and so do values that crowd at a step's end, which no file tells."""
    if sq.qtype == _FP16:
        return _rounding(codes.view("<f2").astype(np.float64), 10)
    if sq.qtype == _BF16:
        return _rounding((codes.view("<u2").astype("<u4") << 16).view("<f4").astype(np.float64), 7)
    trained = faiss.vector_to_array(sq.trained).astype(np.float64)
    widths = np.full(sq.d, trained[1]) if sq.qtype in _UNIFORM else trained[sq.d :]
    steps = widths / _LEVELS[sq.qtype]
    return float(np.sum(steps**2) / 12)


def _rounding(values: F64, bits: int) -> float:
    """Of floats with so many bits after the point, whose steps grow with them."""
    _, exponents = np.frexp(values)  # value = m * 2^e, 0.5 <= m < 1
    steps = np.where(values == 0, 0, np.ldexp(1.0, exponents - 1 - bits))
    return float(np.mean(np.sum(steps**2, axis=1)) / 12)


def _product_error(pq: Any, codes: U8) -> float | None:
    if pq.dsub > _PQ_MOST_DIMS or pq.nbits > _PQ_MOST_BITS:
        return None
    centroids = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub).astype(np.float64)
    used = pq.decode(codes[:: -(-len(codes) // _PQ_ROWS)]).reshape(-1, pq.M, pq.dsub).astype(np.float64)
    apart = 0.0
    for part in range(pq.M):
        points, table = used[:, part], centroids[part]
        squares = (points**2).sum(1)[:, None] - 2 * points @ table.T + (table**2).sum(1)
        apart += float(np.mean(np.partition(np.maximum(squares, 0), 1, axis=1)[:, 1]))
    return float(_PQ_SCALE * pq.dsub**_PQ_POWER * apart)
