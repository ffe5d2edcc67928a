"""The stores as the contract suite sees them: each `cases_<store>.py` beside this file adds a list of cases."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gallery_support import Rows

STORES = ("npy", "parquet", "faiss", "lance", "postgres")


@dataclass(frozen=True)
class Case:
    """How the tests put a gallery into a store, and where they ask it to write one.

    put(folder, rows, with_ids): store the rows, and `rows.payload()` where the store keeps one, below `folder` or on a
    server; returns the source. sink(folder): the place to write to. with_ids: whether the store holds galleries without
    and with ids. payload: it keeps payload columns. same_bytes: equal rows give equal files; else equal rows and values.
    files: the sink is files below the folder, which the tests may damage; folder: it is one folder. in_place: the place
    of the source itself may be a sink.
    """

    name: str
    put: Callable[[Path, Rows, bool], Mapping[str, str]]
    sink: Callable[[Path], str]
    with_ids: tuple[bool, ...] = (False, True)
    payload: bool = False
    same_bytes: bool = True
    files: bool = True
    folder: bool = False
    in_place: bool = False


def cases() -> list[Case]:
    return [case for store in STORES for case in importlib.import_module(f"cases_{store}").CASES]
