"""A result of the demo that nobody had to wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fct_fast.demo.recipe import load_recipe
from fct_fast.demo.result import DemoResult, Hit, PictureRow, Row

MAPS = {
    "naive": 0.01, "old": 0.2, "side": 0.3, "linear": 0.25, "linear_side": 0.41, "h": 0.33, "h_side": 0.44, "new": 0.5
}  # fmt: skip


def picture(label: str, right: bool, seed: int) -> Hit:
    return Hit(np.random.default_rng(seed).integers(0, 256, (28, 28)).astype(np.uint8), label, right)


def made_up() -> DemoResult:
    """A glyph demo that never ran."""
    rows = {name: Row(value + 0.1, value + 0.3, value) for name, value in MAPS.items()}
    pictures = PictureRow(
        query=picture("Ж", True, 0),
        seen=False,
        old=tuple(picture("A", i == 2, i) for i in range(5)),
        upgraded=tuple(picture("Ж", i < 4, 10 + i) for i in range(5)),
    )
    return DemoResult(
        recipe=load_recipe("glyphs"),
        seed=4,
        gallery_source="STIX typefaces",
        class_names=("A", "Ж"),
        pairs=32_000,
        gallery_rows=4000,
        rows=rows,
        rows_seen={name: replace(row, map=row.map + 0.04) for name, row in rows.items()},
        rows_unseen={name: replace(row, map=row.map * 0.9) for name, row in rows.items()},
        overlap=0.51,
        kernel_rows_per_s=123_456.7,
        torch_rows_per_s=100_000.2,
        level="avx2",
        threads=2,
        backfill={"rows": 4000, "bytes_out": 1_024_000, "shards": 1, "rows_per_second": 90_000.0, "flagged": 0},
        verification={"passed": True, "checks": [{"name": "counts", "passed": True, "detail": "4,000 of 4,000 rows"}]},
        pictures=(pictures,),
        losses={"old": [5.0, 4.0, 3.0], "fit h": [1.0], "none": []},
        stages={"draw the images": 1.5, "evaluate": 0.02},
        seconds=75.0,
        artifacts={"bundle": Path("h.safetensors")},
    )
