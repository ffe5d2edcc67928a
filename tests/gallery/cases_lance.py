"""The Lance store: a dataset of several fragments with deleted rows, and one whose side-information is a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from gallery_support import Rows
from store_cases import Case


def vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def put_dataset(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """One dataset with all columns, in fragments of unequal size; some rows of it were deleted."""
    payload = rows.payload()
    columns = {
        "embedding": vectors(rows.old),
        "psi": vectors(rows.side),
        **{n: payload[n] for n in payload.column_names},
    }
    if ids:
        columns["id"] = pa.array(rows.ids)
    table = pa.table(columns)
    keep = pa.array(np.zeros(len(table), bool))
    table = table.append_column("gone", keep)
    doomed = table.slice(0, 20).set_column(table.num_columns - 1, "gone", pa.array(np.ones(20, bool)))
    path = folder / "items.lance"
    for number, start in enumerate(range(0, len(table), 70)):
        part = pa.concat_tables([doomed.slice(3 * number, 3), table.slice(start, 70)])
        lance.write_dataset(part, str(path), mode="append" if number else "create")
    dataset = lance.dataset(str(path))
    dataset.delete("gone")
    dataset.drop_columns(["gone"])
    return {"old": f"{path}#embedding", "side": f"{path}#psi"}


def put_apart(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """Side-information in a dataset of its own, joined by row."""
    payload = rows.payload()
    columns = {**{n: payload[n] for n in payload.column_names}, "vector": vectors(rows.old)}
    if ids:
        columns["id"] = pa.array(rows.ids)
    lance.write_dataset(pa.table(columns), str(folder / "old.lance"), max_rows_per_file=100)
    lance.write_dataset(pa.table({"psi": vectors(rows.side)}), str(folder / "side.lance"))
    return {"old": str(folder / "old.lance"), "side": str(folder / "side.lance")}


CASES = [
    Case(
        "lance",
        put_dataset,
        lambda folder: str(folder / "new.lance"),
        payload=True,
        same_bytes=False,
        folder=True,
        in_place=True,
    ),
    Case(
        "lance joined",
        put_apart,
        lambda folder: f"{folder / 'new.lance'}#vec",
        with_ids=(True,),
        payload=True,
        same_bytes=False,
        folder=True,
        in_place=True,
    ),
]
