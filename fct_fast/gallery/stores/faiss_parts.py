"""Parts of FAISS index files: quantisers, transformations and inverted lists, walked over and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fct_fast.errors import DtypeError
from fct_fast.gallery.stores.faiss_walk import Cursor

__all__ = [
    "list_sizes",
    "product_quantizer",
    "scalar_quantizer",
    "skip_direct_map",
    "transform",
    "unsupported",
]

I64 = npt.NDArray[np.int64]

_SCALAR = {  # FAISS's number -> its name in a factory string, bits of a value
    0: ("SQ8", 8),
    1: ("SQ4", 4),
    2: ("SQ8U", 8),  # U: one range for all dimensions; no factory string names it
    3: ("SQ4U", 4),
    4: ("SQfp16", 16),
    6: ("SQ6", 6),
    7: ("SQbf16", 16),
}
_TRANSFORMS = {"rrot": "RR", "LTra": "Linear", "Pcam": "PCA", "VCnt": "Center", "VNrm": "L2norm"}
_OTHERS = {
    "IxHe": "LSH",
    "INSf": "NSG",
    "IPfs": "PQFastScan",
    "IwPf": "IVFPQFastScan",
    "IwQR": "IVFPQR",
    "IwFd": "IVFFlatDedup",
    "Imiq": "MultiIndexQuantizer",
    "Ixrq": "RaBitQ",
    "Iwrq": "IVFRaBitQ",
}
_READ = "Flat, IVFFlat, HNSWFlat, RefineFlat, SQ, PQ, IVFSQ, IVFPQ, HNSWSQ and HNSWPQ, also under IDMap or a rotation"


def unsupported(path: Path, kind: str) -> str:
    """A sentence for a kind that is not read; FAISS's four letters for it, or a name."""
    return (
        f"{path} holds an index of the kind {_OTHERS.get(kind, kind)}, whose rows are not read; what is read are "
        f"{_READ}: use the original embeddings, or write the index anew with a new FAISS where this is an old form of "
        f"one of these"
    )


def scalar_quantizer(at: Cursor, dim: int) -> tuple[str, int]:
    """Its name, and the bytes of a row."""
    number, _, _, d, code_size = at.fields("iifQQ")
    if number not in _SCALAR:
        raise DtypeError(unsupported(at.path, f"scalar quantiser {number}"))
    kind, bits = _SCALAR[number]
    trained = len(at.vector(4)) // 4
    needed = 0 if bits == 16 else 2 if kind.endswith("U") else 2 * dim
    at.require(d == dim and code_size == -(-dim * bits // 8) and trained == needed, f"its {kind} does not fit its rows")
    return kind, code_size


def product_quantizer(at: Cursor, dim: int) -> tuple[str, int]:
    """Its name, and the bytes of a row."""
    d, parts, bits = at.fields("QQQ")
    centroids = len(at.vector(4)) // 4
    sound = d == dim and 1 <= bits <= 24 and parts >= 1 and dim % parts == 0 and centroids == dim << bits
    at.require(sound, "its PQ does not fit its rows")
    return f"PQ{parts}" + (f"x{bits}" if bits != 8 else ""), -(-parts * bits // 8)


def transform(at: Cursor, dim: int) -> str:
    """Skip one transformation; its name."""
    name = at.code()
    if name not in _TRANSFORMS:
        raise DtypeError(unsupported(at.path, f"{name},..."))
    if name == "VNrm":
        at.field("f")
    elif name == "VCnt":
        at.require(len(at.vector(4)) == 4 * dim, "its centre does not fit its rows")
    else:
        if name == "Pcam":
            at.fields("ff?i")
            for _ in range(3):
                at.vector(4)
        bias, matrix, offset = at.field("?"), at.vector(4), at.vector(4)
        kept = len(matrix) // (4 * dim)
        if 0 < kept < dim:
            raise DtypeError(
                f"{at.path} keeps {kept} of {dim} values of a row ({_TRANSFORMS[name]}), and the others are gone; use "
                f"the original embeddings"
            )
        at.require(len(matrix) == 4 * dim * dim and len(offset) in ((4 * dim,) if bias else (0, 4 * dim)), "its matrix")
    at.require(at.fields("ii?") == (dim, dim, True), f"its transformation does not take rows of {dim} values")
    return _TRANSFORMS[name]


def skip_direct_map(at: Cursor) -> None:
    """A map from ids to lists, which is only for adding and removing."""
    form = at.field("B")
    at.require(form <= 2, "its direct map is of no known form")
    at.vector(8)
    if form == 2:
        at.vector(16)


def list_sizes(at: Cursor, lists: int, code_size: int) -> I64:
    """The number of rows of each inverted list; codes and ids follow."""
    name = at.code()
    if name != "ilar":
        raise DtypeError(
            f"{at.path} does not hold its inverted lists itself ({name}), but in another file or form; write it with "
            f"faiss.write_index from an index whose lists are ArrayInvertedLists"
        )
    at.require(at.fields("QQ") == (lists, code_size), "its inverted lists do not fit its header")
    form, where = at.code(), at.vector(8)
    at.require(len(where) <= 16 * lists, "it has more list sizes than lists")
    sizes = values = at.array("<i8", where)
    if form == "sprs":
        at.require(len(values) % 2 == 0, "its list sizes are no pairs")
        numbers, sizes = values[::2], np.zeros(lists, np.int64)
        at.require(len(numbers) == 0 or (numbers.min() >= 0 and numbers.max() < lists), "it names lists it has not")
        sizes[numbers] = values[1::2]
    at.require(form in ("full", "sprs") and len(sizes) == lists, "its inverted lists are of no known form")
    at.require(not (sizes < 0).any(), "a list has fewer than 0 rows")
    return sizes
