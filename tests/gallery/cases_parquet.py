"""The Parquet store: one file, a folder, a pattern; vectors in each form that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from gallery_support import Rows
from store_cases import Case

from fct_fast.gallery.stores.arrow import VectorType, vector_array


def table(rows: Rows, ids: bool, form: str = "fixed") -> pa.Table:
    """The columns in an order of the user's own."""
    old, side = (vector_array(part, VectorType(form, part.dtype, part.shape[1])) for part in (rows.old, rows.side))
    payload = rows.payload()
    named = {"title": payload["title"], "emb": old, "psi": side}
    named |= {"id": pa.array(rows.ids)} if ids else {}
    named |= {name: payload[name] for name in payload.column_names if name != "title"}
    return pa.table(named)


def put_file(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """Row groups that shards cut."""
    pq.write_table(table(rows, ids), folder / "old.parquet", row_group_size=64)
    return {"old": f"{folder / 'old.parquet'}#emb", "side": "#psi"}


def put_binary(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """One row group, and vectors as fixed-size binary."""
    pq.write_table(table(rows, ids, "binary"), folder / "old.parquet", compression="zstd")
    return {"old": f"{folder / 'old.parquet'}#emb", "side": "#psi"}


def put_folder(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """Files in folders, one of them empty, beside what readers leave out."""
    whole, data = table(rows, ids), folder / "data"
    for name, start, stop in (("a/x.parquet", 0, 90), ("b/x.parquet", 90, 90), ("b/y.parquet", 90, len(rows.old))):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(whole.slice(start, stop - start), data / name, row_group_size=37)
    (data / "_SUCCESS").write_bytes(b"")
    (data / ".part.parquet").write_bytes(b"half")
    return {"old": f"{data}#emb", "side": "#psi"}


def put_arrow(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """Arrow files, found by a pattern."""
    for number, start in enumerate(range(0, len(rows.old), 100)):
        part = table(rows, ids).slice(start, 100)
        with pa.ipc.new_file(folder / f"part-{number}.arrow", part.schema) as writer:
            writer.write_table(part, max_chunksize=33)
    (folder / "other.arrow").write_bytes(b"not one of them")
    return {"old": f"{folder / 'part-?.arrow'}#emb", "side": "#psi"}


CASES = [
    Case("parquet file", put_file, lambda folder: str(folder / "new.parquet"), payload=True, in_place=False),
    Case("parquet folder", put_folder, lambda folder: str(folder / "new"), payload=True, folder=True),
    Case("parquet binary", put_binary, lambda folder: f"{folder / 'out.parquet'}", payload=True),
    Case("arrow", put_arrow, lambda folder: f"{folder / 'made'}?vectors=binary", payload=True, folder=True),
]
