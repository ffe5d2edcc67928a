"""What a backfill relies on, held by every store: a case here is all that a new store adds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import NEW_DIM, OLD_DIM, SIDE_DIM, Rows, leftovers, make_rows, tree_digest

from fct_fast.errors import StoreError
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink, Source
from fct_fast.space import SpaceFingerprint

COUNT, SHARD_ROWS = 230, 50


@dataclass(frozen=True)
class Case:
    """How the tests put a gallery into a store, and where they ask it to write one."""

    name: str
    put: Callable[[Path, Rows, bool], Mapping[str, Path]]  # folder, rows, with ids -> source
    sink: str


def put_file(folder: Path, rows: Rows, ids: bool) -> Mapping[str, Path]:
    np.save(folder / "old.npy", rows.old)
    np.save(folder / "side.npy", rows.side)
    if ids:
        np.save(folder / "old.ids.npy", rows.ids)
    return {"old": folder / "old.npy", "side": folder / "side.npy"}


def put_folder(folder: Path, rows: Rows, ids: bool) -> Mapping[str, Path]:
    for name in ("old", "side"):
        (folder / name).mkdir()
        for number, part in enumerate(np.array_split(np.arange(len(rows.old)), 7 if name == "old" else 3)):
            np.save(folder / name / f"x{number}.npy", getattr(rows, name)[part])
            if ids and name == "old":
                np.save(folder / name / f"x{number}.ids.npy", rows.ids[part])
    return {"old": folder / "old", "side": folder / "side"}


CASES = [Case("npy file", put_file, "new.npy"), Case("npy folder", put_folder, "new")]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


@pytest.fixture(params=[False, True], ids=["positions", "ids"])
def with_ids(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def rows() -> Rows:
    return make_rows(COUNT)


@pytest.fixture
def source(tmp_path: Path, case: Case, rows: Rows, with_ids: bool) -> Source:
    return open_source(dict(case.put(tmp_path, rows, with_ids)))


@pytest.fixture
def layout(with_ids: bool) -> Layout:
    return Layout(COUNT, NEW_DIM, np.dtype("<f4"), np.dtype("<i8") if with_ids else None, SHARD_ROWS)


@pytest.fixture
def new() -> Any:
    return np.random.default_rng(9).standard_normal((COUNT, NEW_DIM)).astype(np.float32)


def write_all(sink: Sink, layout: Layout, new: Any, rows: Rows) -> None:
    for shard in map(layout.shard, range(layout.shards)):
        part = slice(shard.start, shard.stop)
        sink.write(shard, new[part], rows.ids[part] if layout.ids_dtype else None)


# Reading


def test_source_tells_its_rows_and_dims(source: Source, with_ids: bool) -> None:
    assert (source.rows, dict(source.dims)) == (COUNT, {"old": OLD_DIM, "side": SIDE_DIM})
    assert source.ids_dtype == (np.dtype("<i8") if with_ids else None)
    assert source.row_bytes == 4 * (OLD_DIM + SIDE_DIM) + (8 if with_ids else 0)
    assert source.capabilities.ids or not with_ids
    assert source.spaces == {}


@pytest.mark.parametrize("size", [1, 32, 33, 100, COUNT])
def test_any_cut_reads_the_same_rows(source: Source, rows: Rows, with_ids: bool, size: int) -> None:
    parts = [source.read(Shard(i, a, min(a + size, COUNT))) for i, a in enumerate(range(0, COUNT, size))]
    assert np.array_equal(np.concatenate([p.old for p in parts]), rows.old)
    assert np.array_equal(np.concatenate([p.side for p in parts if p.side is not None]), rows.side)
    if with_ids:
        assert np.array_equal(np.concatenate([p.ids for p in parts if p.ids is not None]), rows.ids)
    else:
        assert all(p.ids is None for p in parts)


def test_take_reads_single_rows(source: Source, rows: Rows) -> None:
    positions = [0, 1, 32, 33, 34, 66, 100, COUNT - 1]
    taken = source.take(positions)
    assert np.array_equal(taken.old, rows.old[positions])
    assert taken.side is not None
    assert np.array_equal(taken.side, rows.side[positions])
    assert source.take([]).old.shape == (0, OLD_DIM)


def test_reading_changes_nothing_and_identity_tells_galleries_apart(
    tmp_path: Path, source: Source, case: Case, rows: Rows, with_ids: bool
) -> None:
    before, identity = tree_digest(tmp_path), source.identity()
    source.read(Shard(0, 0, COUNT))
    assert source.identity() == identity
    assert tree_digest(tmp_path) == before
    again = open_source(dict(source.places))
    assert again.identity() == identity
    (tmp_path / "copy").mkdir()
    rows.side[COUNT // 2, 0] += 1
    other = open_source(dict(case.put(tmp_path / "copy", rows, with_ids)))
    assert other.identity() != identity


def test_a_source_knows_what_would_change_it(source: Source, tmp_path: Path) -> None:
    for place in (*source.places.values(), str(tmp_path)):
        assert source.overlaps(place)
    for name in ("new", "new.npy", "old2.npy"):
        assert not source.overlaps(str(tmp_path / name))


# Writing


def test_what_is_written_is_read_back_and_appears_only_when_published(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    place = tmp_path / case.sink
    sink = open_sink(place, layout, "token")
    sink.refuse_existing()
    sink.begin()
    write_all(sink, layout, new, rows)
    assert not place.exists()
    assert not sink.published
    for published in (False, True):
        for shard in map(layout.shard, range(layout.shards)):
            loaded = sink.load(shard)
            assert np.array_equal(loaded.new, new[shard.start : shard.stop])
            assert (loaded.ids is not None) == (layout.ids_dtype is not None)
        assert np.array_equal(sink.take([0, 49, 50, COUNT - 1]), new[[0, 49, 50, COUNT - 1]])
        assert sink.fault(range(layout.shards)) is None
        if not published:
            sink.publish(None)
    assert sink.published
    assert sink.space is None
    sink.publish(None)
    sink.close()
    assert leftovers(tmp_path) == []
    assert Path(sink.place) == place
    with pytest.raises(StoreError, match="already exists"):
        open_sink(place, layout, "other").refuse_existing()


def test_a_written_gallery_is_a_source_with_its_space(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    sink = open_sink(tmp_path / case.sink, layout, "token")
    sink.begin()
    write_all(sink, layout, new, rows)
    space = SpaceFingerprint.measure(new, model_id="new-1", metric="ip")
    sink.publish(space)
    sink.close()
    assert sink.space == space
    back = open_source(tmp_path / case.sink)
    assert back.spaces == {"old": space}
    read = back.read(Shard(0, 0, COUNT))
    assert np.array_equal(read.old, new)
    assert read.ids is None if layout.ids_dtype is None else np.array_equal(read.ids, rows.ids)


def test_equal_rows_give_equal_bytes_in_any_order_and_after_any_rewrite(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    digests = []
    for run, order in enumerate([[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [0, 1, 1, 0, 2, 3, 4, 2]]):
        folder = tmp_path / str(run)
        folder.mkdir()
        sink = open_sink(folder / case.sink, layout, f"token{run}")
        sink.begin()
        seen: dict[int, Any] = {}
        for turn, index in enumerate(order):
            shard = layout.shard(index)
            part = slice(shard.start, shard.stop)
            wrong = index in order[turn + 1 :]  # what is written again was other rows at first
            ids = rows.ids[part] if layout.ids_dtype else None
            seen[index] = sink.write(shard, new[part] + wrong, ids)
        assert all(sink.load(layout.shard(index)).digests == digest for index, digest in seen.items())
        sink.publish(SpaceFingerprint.measure(new))
        sink.close()
        digests.append([tree_digest(path) for path in sorted(folder.iterdir())])
    assert digests[0] == digests[1] == digests[2]


def test_every_changed_byte_changes_the_digest_or_is_an_error(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    sink = open_sink(tmp_path / case.sink, layout, "token")
    sink.begin()
    write_all(sink, layout, new, rows)
    sink.publish(None)
    sink.close()
    state = sink.state()
    good = [sink.load(layout.shard(index)).digests for index in range(layout.shards)]
    rng = np.random.default_rng(0)
    files = [tmp_path / case.sink] if "." in case.sink else sorted((tmp_path / case.sink).iterdir())
    for file in files:
        data = file.read_bytes()
        for position in [0, 9, 60, 127, 128, len(data) - 1, *rng.integers(0, len(data), 12).tolist()]:
            flipped = bytearray(data)
            flipped[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            assert _digests_or_error(sink, layout) != good, (file.name, position)
        for changed in (data[:-1], data + b"\0", b"", data[: len(data) // 2]):
            file.write_bytes(changed)
            assert _digests_or_error(sink, layout) != good
        file.write_bytes(data)
    assert _digests_or_error(sink, layout) == good
    assert sink.state() != state


def _digests_or_error(sink: Sink, layout: Layout) -> Any:
    try:
        return [sink.load(layout.shard(index)).digests for index in range(layout.shards)]
    except StoreError as error:
        return str(error)


def test_missing_shards_are_a_fault_that_names_them(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    sink = open_sink(tmp_path / case.sink, layout, "token")
    sink.begin()
    assert sink.fault([]) is None
    sink.write(layout.shard(0), new[:SHARD_ROWS], rows.ids[:SHARD_ROWS] if layout.ids_dtype else None)
    assert sink.fault([0]) is None
    fault = sink.fault([0, 1])
    assert fault is not None
    assert str(tmp_path / case.sink) in fault
    assert str(tmp_path / case.sink) in sink.where(layout.shard(1))
    sink.close()


def test_a_crash_between_two_steps_of_publishing_is_finished_by_the_next(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    from gallery_support import FaultyDisk

    def publish(folder: Path, fail_at: int) -> bool:
        """Whether publishing came to its end at once; it has after being tried again."""
        disk = FaultyDisk(0, only="replace")
        sink = open_sink(folder / case.sink, layout, "token", disk)
        sink.begin()
        write_all(sink, layout, new, rows)
        disk.fail_at = disk.calls + fail_at
        try:
            sink.publish(SpaceFingerprint.measure(new))
            return True
        except StoreError:
            again = open_sink(folder / case.sink, layout, "token")
            again.publish(SpaceFingerprint.measure(new))
            assert again.published
            again.close()
            return False
        finally:
            sink.close()

    reference = None
    for fail_at in range(1, 10):
        folder = tmp_path / "run"
        folder.mkdir()
        ended = publish(folder, fail_at)
        assert leftovers(folder) == []
        digest = [tree_digest(path) for path in sorted(folder.iterdir())]
        reference = reference or digest
        assert digest == reference
        shutil.rmtree(folder)
        if ended:
            return
    pytest.fail("publishing never came to its end")


def test_a_sink_never_replaces_what_is_not_its_own(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    place = tmp_path / case.sink
    sink = open_sink(place, layout, "token")
    sink.begin()
    write_all(sink, layout, new, rows)
    if place.suffix:
        place.write_bytes(b"mine")
    else:
        place.mkdir()
        (place / "mine").write_bytes(b"mine")
    before = tree_digest(place)
    with pytest.raises(StoreError, match="appeared while the job ran"):
        sink.publish(None)
    assert tree_digest(place) == before
    sink.close()


def test_begin_removes_the_leftovers_of_a_killed_process_and_nothing_else(
    tmp_path: Path, case: Case, layout: Layout, new: Any, rows: Rows
) -> None:
    sink = open_sink(tmp_path / case.sink, layout, "token")
    sink.begin()
    write_all(sink, layout, new, rows)
    sink.close()
    partial = next(p for p in tmp_path.iterdir() if p.name.startswith(f"{case.sink}.partial-"))
    inside = partial if partial.is_dir() else tmp_path
    stale = inside / (".part-000000.npy.12ab.tmp" if partial.is_dir() else f".{partial.name}.12ab.tmp")
    stale.write_bytes(b"half")
    foreign = tmp_path / ".notes.12ab.tmp"
    foreign.write_bytes(b"mine")
    again = open_sink(tmp_path / case.sink, layout, "token")
    again.begin()
    assert not stale.exists()
    assert foreign.exists()
    assert np.array_equal(again.load(layout.shard(1)).new, new[SHARD_ROWS : 2 * SHARD_ROWS])
    again.close()
