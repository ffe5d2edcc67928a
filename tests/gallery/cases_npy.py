"""The npy store: one file, or a folder of shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gallery_support import Rows
from store_cases import Case


def put_file(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    np.save(folder / "old.npy", rows.old)
    np.save(folder / "side.npy", rows.side)
    if ids:
        np.save(folder / "old.ids.npy", rows.ids)
    return {"old": str(folder / "old.npy"), "side": str(folder / "side.npy")}


def put_folder(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    for name in ("old", "side"):
        (folder / name).mkdir()
        for number, part in enumerate(np.array_split(np.arange(len(rows.old)), 7 if name == "old" else 3)):
            np.save(folder / name / f"x{number}.npy", getattr(rows, name)[part])
            if ids and name == "old":
                np.save(folder / name / f"x{number}.ids.npy", rows.ids[part])
    return {"old": str(folder / "old"), "side": str(folder / "side")}


def put_pattern(folder: Path, rows: Rows, ids: bool) -> Mapping[str, str]:
    """As a folder, named by a pattern; the side-information is joined by id in another test."""
    put_folder(folder, rows, ids)
    np.save(folder / "old" / "other.npy", rows.side)  # the pattern leaves it out
    return {"old": str(folder / "old" / "x*.npy"), "side": str(folder / "side" / "x?.npy")}


CASES = [
    Case("npy file", put_file, lambda folder: str(folder / "new.npy")),
    Case("npy folder", put_folder, lambda folder: str(folder / "new"), folder=True),
    Case("npy pattern", put_pattern, lambda folder: str(folder / "out.npy")),
]
