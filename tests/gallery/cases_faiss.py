"""The FAISS store: an index file of each kind that keeps rows whole. Side-information lies in a .npy file beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import faiss
import numpy as np
from gallery_support import Rows
from store_cases import Case


def putting(kind: str, metric: int = faiss.METRIC_INNER_PRODUCT) -> Callable[[Path, Rows, bool], Mapping[str, str]]:
    """Store rows as FAISS does. The side-information is in the order in which rows are read: of an IVF that is given
    ids, by rising id."""

    def put(folder: Path, rows: Rows, with_ids: bool) -> Mapping[str, str]:
        in_lists = kind.startswith("IVF")
        index = faiss.index_factory(rows.old.shape[1], kind if in_lists or not with_ids else f"IDMap,{kind}", metric)
        index.train(rows.old)
        side = rows.side
        if with_ids:
            index.add_with_ids(rows.old, rows.ids)
            side = side[np.argsort(rows.ids)] if in_lists else side
        else:
            index.add(rows.old)
        faiss.write_index(index, str(folder / "old.faiss"))
        np.save(folder / "side.npy", side)
        return {"old": str(folder / "old.faiss"), "side": str(folder / "side.npy")}

    return put


def sink(folder: Path) -> str:
    return str(folder / "new.faiss")


def put_npy(folder: Path, rows: Rows, with_ids: bool) -> Mapping[str, str]:
    """A source whose ids do not rise, so that an IVF sink has to note their order."""
    np.save(folder / "old.npy", rows.old)
    np.save(folder / "side.npy", rows.side)
    if with_ids:
        np.save(folder / "old.ids.npy", rows.ids)
    return {"old": str(folder / "old.npy"), "side": str(folder / "side.npy")}


CASES = [
    Case("faiss Flat", putting("Flat"), sink),
    Case("faiss IVF", putting("IVF8,Flat"), sink),
    Case("faiss HNSW", putting("HNSW8", faiss.METRIC_L2), sink),
    Case("npy to faiss IVF", put_npy, lambda folder: f"{folder / 'new.faiss'}?index=IVF4,Flat&metric=l2"),
]
