"""Side-information of another gallery finds its rows, or the join is refused: no row is paired with another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import SIDE_DIM, Stored, load_gallery, make_rows, store

from fct_fast.errors import ConfigError, LedgerMismatch, ShapeError, StoreError
from fct_fast.gallery import backfill, plan_backfill
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.protocol import Shard


def shuffled(folder: Path, stored: Stored, *, extra: int = 50) -> dict[str, str]:
    """The side-information of a gallery in another order, with rows of others among them."""
    rng = np.random.default_rng(5)
    ids = np.concatenate([stored.rows.ids, 1_000_000 + np.arange(extra)])
    side = np.concatenate([stored.rows.side, rng.standard_normal((extra, SIDE_DIM)).astype(np.float32)])
    order = rng.permutation(len(ids))
    np.save(folder / "psi.npy", side[order])
    np.save(folder / "psi.ids.npy", ids[order])
    return {"old": stored.source["old"], "side": str(folder / "psi.npy")}


def test_joined_by_id_every_row_gets_its_own_side_information(tmp_path: Path) -> None:
    stored = store(tmp_path, 700, ids=True)
    source = shuffled(tmp_path, stored)
    job = plan_backfill(source, tmp_path / "new", stored.up, join="id", shard_rows=90)
    job.run()
    assert np.array_equal(load_gallery(tmp_path / "new"), stored.expected)
    assert job.verify().passed
    with pytest.raises(LedgerMismatch):
        backfill(stored.source, tmp_path / "new", stored.up, shard_rows=90)


def test_taken_rows_are_joined_too(tmp_path: Path) -> None:
    stored = store(tmp_path, 300, ids=True)
    for join, places in (("row", stored.source), ("id", shuffled(tmp_path, stored))):
        source = open_source(places, join=join)  # type: ignore[arg-type]
        positions = np.array([7, 3, 299, 0, 3])
        taken = source.take(positions)
        assert np.array_equal(taken.old, stored.rows.old[positions])
        assert taken.side is not None
        assert np.array_equal(taken.side, stored.rows.side[positions])
        read = source.read(Shard(0, 10, 60))
        assert read.side is not None
        assert np.array_equal(read.side, stored.rows.side[10:60])
        assert np.array_equal(read.ids, stored.rows.ids[10:60])


def spoil(folder: Path, stored: Stored, what: str) -> dict[str, Any]:
    """A pair of galleries that do not belong together, and how they were to be joined."""
    source = shuffled(folder, stored, extra=0)
    ids, side = np.load(folder / "psi.ids.npy"), np.load(folder / "psi.npy")
    if what == "missing":
        keep = ids != stored.rows.ids[123]
        np.save(folder / "psi.npy", side[keep])
        np.save(folder / "psi.ids.npy", ids[keep])
    elif what == "twice":
        ids[5] = ids[9]
        np.save(folder / "psi.ids.npy", ids)
    elif what == "no ids":
        (folder / "psi.ids.npy").unlink()
    elif what == "other kind":
        np.save(folder / "psi.ids.npy", ids.astype(str))
    elif what == "fewer rows":
        np.save(folder / "psi.npy", side[:-1])
        np.save(folder / "psi.ids.npy", ids[:-1])
    return {"source": source, "join": "row" if what in ("fewer rows", "other order") else "id"}


@pytest.mark.parametrize(
    ("what", "error", "sentence"),
    [
        ("missing", StoreError, r"lacks side-information for 1 of 300 rows .*, the first is the id \d+; complete it"),
        ("twice", StoreError, r"holds the id \d+ twice"),
        ("no ids", ConfigError, "has no ids to join by"),
        ("other kind", ConfigError, "they cannot match"),
        ("fewer rows", ShapeError, "joined by row and must pair up"),
        ("other order", StoreError, r"row \d+ has the id \d+ in .* and \d+ in .*, but they are joined by row"),
    ],
)
def test_galleries_that_do_not_pair_up_are_refused(tmp_path: Path, what: str, error: Any, sentence: str) -> None:
    stored = store(tmp_path, 300, ids=True)
    wrong = spoil(tmp_path, stored, what)
    with pytest.raises(error, match=sentence):
        plan_backfill(wrong["source"], tmp_path / "new", stored.up, join=wrong["join"])
    assert not (tmp_path / "new").exists()


def test_changed_side_information_is_a_changed_source(tmp_path: Path) -> None:
    stored = store(tmp_path, 300, ids=True)
    source = shuffled(tmp_path, stored)
    before = open_source(source, join="id").identity()
    assert open_source(source, join="id").identity() == before
    np.save(tmp_path / "psi.npy", np.load(tmp_path / "psi.npy") + 1)
    assert open_source(source, join="id").identity() != before
    assert make_rows(3).side.shape == (3, SIDE_DIM)


def test_an_unknown_join_is_refused(tmp_path: Path) -> None:
    stored = store(tmp_path, 30)
    with pytest.raises(ConfigError, match="join is 'row' or 'id'"):
        plan_backfill(stored.source, tmp_path / "new", stored.up, join="key")  # type: ignore[arg-type]
