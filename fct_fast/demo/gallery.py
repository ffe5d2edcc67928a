"""The demo's gallery on disk, and its backfill by the real engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fct_fast
from fct_fast.errors import StoreError
from fct_fast.fs import write_atomic
from fct_fast.gallery.stores.npy_format import npy_header
from fct_fast.training.embed import EmbeddedViews
from fct_fast.training.fit import FitResult

__all__ = ["StoredGallery", "backfill_gallery", "claim_folder", "store_gallery"]

_MARK = "made-by-fct-fast-demo"
_NAMES = ("gallery", "h.safetensors", "report.html")  # what a demo leaves in its output folder


@dataclass(frozen=True)
class StoredGallery:
    """Files of a gallery: old.npy and side.npy [rows, dim], labels.npy [rows]; new.npy: what re-embedding gives."""

    folder: Path
    bundle: Path

    @property
    def upgraded(self) -> Path:
        return self.folder / "upgraded.npy"

    def files(self) -> dict[str, Path]:
        names = ("old", "side", "labels", "new", "upgraded")
        return {name: self.folder / f"{name}.npy" for name in names} | {"bundle": self.bundle}


def claim_folder(out: Path) -> None:
    """Make `out` ready for a demo, whose files replace those of an earlier one.

    Raises StoreError where it cannot be written, and where something of these names is not of a demo's making.
    """
    folder = out / "gallery"
    mark = folder / _MARK
    try:
        if mark.exists():
            shutil.rmtree(folder)
        else:
            for name in _NAMES:
                if (out / name).exists():
                    raise StoreError(f"{out / name} exists and was not made by a demo; choose another output folder")
        folder.mkdir(parents=True)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}; choose another output folder") from None
    write_atomic(mark, b"This folder is replaced by the next run of the demo.\n")


def store_gallery(out: Path, gallery: EmbeddedViews, h: FitResult, *, seed: int) -> StoredGallery:
    """Write the gallery and the bundle of h below `out`. Raises StoreError where they cannot be written."""
    stored = StoredGallery(out / "gallery", out / "h.safetensors")
    for name, rows in gallery.embeddings.items():
        _write_npy(stored.folder / f"{name}.npy", rows)
    _write_npy(stored.folder / "labels.npy", gallery.labels)
    old_space, side_space, new_space = (f"demo-{name}-seed{seed}" for name in ("old", "side", "new"))
    fct_fast.save(h, stored.bundle, old_space=old_space, side_space=side_space, new_space=new_space)
    return stored


def backfill_gallery(
    stored: StoredGallery, new: npt.NDArray[np.float32], *, on_step: Callable[[int, int], None]
) -> tuple[npt.NDArray[np.float32], dict[str, Any], dict[str, Any]]:
    """Plan, run, verify and cut over; returns the rows of the live gallery, the job's report and its verification.

    new: true new embeddings of the first rows, against which the verification measures the overlap of neighbours.
    """
    source = {"old": stored.folder / "old.npy", "side": stored.folder / "side.npy"}
    job = fct_fast.plan_backfill(source, stored.upgraded, stored.bundle)
    report = job.run(lambda at: on_step(at.rows, at.total_rows))
    verification = job.verify(reference=(new, np.arange(len(new))))
    job.cutover()
    return np.load(stored.upgraded), report.to_json(), verification.to_json()


def _write_npy(path: Path, rows: npt.NDArray[Any]) -> None:
    rows = np.ascontiguousarray(rows)
    write_atomic(path, npy_header(rows.dtype, rows.shape), rows.reshape(-1).view(np.uint8).data)
