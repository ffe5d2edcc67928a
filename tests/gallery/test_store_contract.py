"""What a backfill relies on, held by every store: a case in `store_cases` is all that a new store adds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import NEW_DIM, OLD_DIM, SIDE_DIM, FaultyDisk, Rows, leftovers, make_rows, tree_digest
from store_cases import Case, cases

from fct_fast.errors import StoreError
from fct_fast.fs import DISK
from fct_fast.gallery.stores import Place, open_sink, open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink, Source
from fct_fast.space import SpaceFingerprint

COUNT, SHARD_ROWS = 230, 50


def variants(*, files_only: bool = False) -> list[Any]:
    """Each case without and with ids, as far as its store can hold them."""
    return [
        pytest.param((case, with_ids), id=f"{case.name} {'ids' if with_ids else 'positions'}")
        for case in cases()
        for with_ids in case.with_ids
        if case.files or not files_only
    ]


ANY_STORE = pytest.mark.parametrize("variant", variants(), indirect=True)
FILES = pytest.mark.parametrize("variant", variants(files_only=True), indirect=True)


class Setting:
    """A gallery in a store, what it holds in the order in which the store reads it, and a folder to write to."""

    def __init__(self, folder: Path, case: Case, with_ids: bool) -> None:
        self.case, self.with_ids, self.folder = case, with_ids, folder
        self.out = folder / "out"
        for name in ("in", "out"):
            (folder / name).mkdir()
        self.rows = make_rows(COUNT)
        self.source = open_source(case.put(folder / "in", self.rows, with_ids))
        order = np.arange(COUNT)
        ids = self.source.all_ids()
        if ids is not None:
            place = {value: row for row, value in enumerate(self.rows.ids.tolist())}
            order = np.array([place[value] for value in ids.tolist()])
        self.payload = self.rows.payload().take(order) if case.payload else None
        self.rows = Rows(self.rows.old[order], self.rows.side[order], self.rows.ids[order])
        self.new = np.random.default_rng(9).standard_normal((COUNT, NEW_DIM)).astype(np.float32)

    @property
    def layout(self) -> Layout:
        source = self.source
        return Layout(COUNT, NEW_DIM, np.dtype("<f4"), source.ids_dtype, SHARD_ROWS, source.payload, dict(source.form))

    def sink(self, token: str = "0a1b2c3d", folder: Path | None = None, fs: Any = DISK) -> Sink:
        return open_sink(self.case.sink(folder or self.out), self.layout, token, fs)

    def shards(self) -> list[Shard]:
        return [self.layout.shard(index) for index in range(self.layout.shards)]

    def write(self, sink: Sink, shard: Shard, wrong: float = 0.0) -> bytes:
        part = slice(shard.start, shard.stop)
        payload = None if self.payload is None else self.payload.slice(shard.start, shard.rows)
        return sink.write(shard, self.new[part] + wrong, self.rows.ids[part] if self.with_ids else None, payload)

    def written(self, sink: Sink) -> dict[int, bytes]:
        """Write all shards; their digests."""
        sink.begin()
        return {shard.index: self.write(sink, shard) for shard in self.shards()}

    def check(self, sink: Sink) -> None:
        """The sink holds exactly what was written."""
        for shard in self.shards():
            loaded = sink.load(shard)
            part = slice(shard.start, shard.stop)
            assert loaded.new.dtype == np.float32
            assert np.array_equal(loaded.new, self.new[part])
            assert (loaded.ids is not None) == self.with_ids
            if loaded.ids is not None:
                assert np.array_equal(loaded.ids, self.rows.ids[part])
            if self.payload is not None:
                assert first_difference(self.payload.slice(shard.start, shard.rows), loaded.payload) is None


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> tuple[Case, bool]:
    chosen: tuple[Case, bool] = request.param
    return chosen


@pytest.fixture
def at(tmp_path: Path, variant: tuple[Case, bool]) -> Iterator[Setting]:
    setting = Setting(tmp_path, *variant)
    yield setting
    setting.source.close()


def whole(source: Source) -> Any:
    return source.read(Shard(0, 0, COUNT))


# Reading


@ANY_STORE
def test_source_tells_its_rows_and_dims(at: Setting) -> None:
    source = at.source
    assert (source.rows, dict(source.dims)) == (COUNT, {"old": OLD_DIM, "side": SIDE_DIM})
    assert source.ids_dtype == (np.dtype("<i8") if at.with_ids else None)
    assert source.row_bytes >= 4 * (OLD_DIM + SIDE_DIM) + (8 if at.with_ids else 0)
    assert source.capabilities.ids or not at.with_ids
    assert source.capabilities.payload == at.case.payload
    assert source.spaces == {}
    assert source.held_bytes >= 0
    assert not source.notes


@ANY_STORE
@pytest.mark.parametrize("size", [1, 32, 33, 100, COUNT])
def test_any_cut_reads_the_same_rows(at: Setting, size: int) -> None:
    for _ in range(2):  # the second time it starts from the front again
        parts = [at.source.read(Shard(i, a, min(a + size, COUNT))) for i, a in enumerate(range(0, COUNT, size))]
        assert np.array_equal(np.concatenate([p.old for p in parts]), at.rows.old)
        assert np.array_equal(np.concatenate([p.side for p in parts if p.side is not None]), at.rows.side)
        for start, part in zip(range(0, COUNT, size), parts, strict=True):
            if at.with_ids:
                assert part.ids is not None
                assert np.array_equal(part.ids, at.rows.ids[start : start + size])
            else:
                assert part.ids is None
            if at.payload is not None:
                assert part.payload is not None
                assert part.payload.num_rows == len(part.old)
                assert first_difference(at.payload.slice(start, size), part.payload) is None
            else:
                assert part.payload is None


@ANY_STORE
def test_shards_are_read_alone_and_in_any_order(at: Setting) -> None:
    """A resumed job leaves out what is done."""
    for start, stop in ((100, 140), (40, 100), (229, 230), (0, 230), (60, 61)):
        read = at.source.read(Shard(0, start, stop))
        assert np.array_equal(read.old, at.rows.old[start:stop])
        assert read.side is not None
        assert np.array_equal(read.side, at.rows.side[start:stop])


@ANY_STORE
def test_take_reads_single_rows_in_the_order_asked_for(at: Setting) -> None:
    for positions in ([0, 1, 32, 33, 34, 66, 100, COUNT - 1], [200, 3, 3, 150, 0]):
        taken = at.source.take(np.array(positions))
        assert np.array_equal(taken.old, at.rows.old[positions])
        assert taken.side is not None
        assert np.array_equal(taken.side, at.rows.side[positions])
    assert at.source.take(np.array([], np.int64)).old.shape == (0, OLD_DIM)


@ANY_STORE
def test_a_sample_is_rows_of_the_gallery_and_the_same_each_time(at: Setting) -> None:
    known = {row.tobytes(): number for number, row in enumerate(at.rows.old)}
    for count in (1, 20, COUNT, 10 * COUNT):
        first, second = at.source.sample(count), at.source.sample(count)
        assert np.array_equal(first.old, second.old)
        assert 1 <= len(first.old) <= min(2 * count, COUNT)
        numbers = [known[row.tobytes()] for row in first.old]
        assert len(set(numbers)) == len(numbers)
        assert first.side is not None
        assert np.array_equal(first.side, at.rows.side[numbers])
    assert len(at.source.sample(10 * COUNT).old) == COUNT


@ANY_STORE
def test_reading_changes_nothing_and_identity_tells_galleries_apart(at: Setting) -> None:
    before, identity = tree_digest(at.folder), at.source.identity()
    whole(at.source)
    assert at.source.identity() == identity
    assert tree_digest(at.folder) == before
    again = open_source(dict(at.source.places))
    assert again.identity() == identity
    again.close()
    (at.folder / "copy").mkdir()
    rows = make_rows(COUNT)
    rows.side[COUNT // 2, 0] += 1
    other = open_source(at.case.put(at.folder / "copy", rows, at.with_ids))
    assert other.identity() != identity
    other.close()


@FILES
def test_a_source_knows_what_would_change_it(at: Setting) -> None:
    for above in (at.folder / "in", at.folder):
        assert at.source.overlaps(Place.parse(above))
    for place in map(Place.parse, at.source.places.values()):
        assert at.source.overlaps(place) != at.case.in_place
        if place.path.is_dir():
            assert at.source.overlaps(Place.parse(place.path / "x"))
    for name in ("new", "new.npy", "old2.npy"):
        assert not at.source.overlaps(Place.parse(at.folder / name))


# Writing


@ANY_STORE
def test_what_is_written_is_read_back_and_appears_only_when_published(at: Setting) -> None:
    sink = at.sink()
    sink.refuse_existing()
    digests = at.written(sink)
    assert not sink.published
    if at.case.files:
        assert not Place.parse(sink.place).path.exists()
    for published in (False, True):
        at.check(sink)
        assert {shard.index: sink.load(shard).digest for shard in at.shards()} == digests
        assert sink.fault(range(at.layout.shards)) is None
        if not published:
            sink.publish(None)
    assert sink.published
    assert sink.space is None
    sink.publish(None)
    sink.close()
    assert leftovers(at.out) == []
    assert str(Place.parse(sink.place)) == sink.place
    other = at.sink("ffffffff")
    with pytest.raises(StoreError, match="already exists"):
        other.refuse_existing()
    other.close()
    again = at.sink()  # another process, after the end
    assert again.published
    assert {shard.index: again.load(shard).digest for shard in at.shards()} == digests
    at.check(again)
    again.close()


@ANY_STORE
def test_a_written_gallery_is_a_source_with_its_space(at: Setting) -> None:
    sink = at.sink()
    at.written(sink)
    space = SpaceFingerprint.measure(at.new, model_id="new-1", metric="ip")
    sink.publish(space)
    assert sink.space == space
    sink.close()
    back = open_source(sink.place)
    assert back.spaces == {"old": space}
    read, ids = whole(back), back.all_ids()
    assert (ids is not None) == at.with_ids
    order = np.arange(COUNT)
    if ids is not None:  # a store may read in an order of its own
        assert np.array_equal(read.ids, ids)
        place = {value: row for row, value in enumerate(at.rows.ids.tolist())}
        order = np.array([place[value] for value in ids.tolist()])
    assert np.array_equal(read.old, at.new[order])
    if at.payload is not None:
        assert first_difference(at.payload.take(order), read.payload) is None
    back.close()


@ANY_STORE
def test_equal_rows_give_equal_galleries_in_any_order_and_after_any_rewrite(at: Setting) -> None:
    """Equal bytes where the store's files allow it, equal rows and values elsewhere."""
    trees, digests = [], []
    for run, order in enumerate([[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [0, 1, 1, 0, 2, 3, 4, 2]]):
        folder = at.out / str(run)
        folder.mkdir()
        sink = at.sink(f"{run:08x}", folder)
        sink.begin()
        seen = {}
        for turn, index in enumerate(order):  # what is written again was other rows at first
            seen[index] = at.write(sink, at.layout.shard(index), wrong=float(index in order[turn + 1 :]))
        sink.publish(SpaceFingerprint.measure(at.new))
        at.check(sink)
        assert all(sink.load(at.layout.shard(index)).digest == digest for index, digest in seen.items())
        sink.close()
        digests.append(seen)
        trees.append([tree_digest(path) for path in sorted(folder.iterdir())])
    assert digests[0] == digests[1] == digests[2]
    if at.case.same_bytes:
        assert trees[0] == trees[1] == trees[2]


@FILES
def test_every_changed_byte_is_reported_or_changes_nothing_that_is_read(at: Setting) -> None:
    sink = at.sink()
    good = at.written(sink)
    sink.publish(None)
    sink.close()
    state = sink.state()
    rng = np.random.default_rng(0)
    place = Place.parse(sink.place).path
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    reported = 0
    for file in files:
        data = file.read_bytes()
        for position in [0, 9, 60, 127, 128, len(data) - 1, *rng.integers(0, len(data), 12).tolist()]:
            flipped = bytearray(data)
            flipped[min(position, len(data) - 1)] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            found = outcome(at)
            reported += found != good
            if found == good:
                again = at.sink()
                at.check(again)
                again.close()
        for changed in (data[:-1], data + b"\0", b"", data[: len(data) // 2]):
            file.write_bytes(changed)
            if outcome(at) == good:
                again = at.sink()
                at.check(again)
                again.close()
        file.write_bytes(data)
    assert reported > 5 * len(files)
    assert outcome(at) == good
    again = at.sink()
    assert again.state() != state
    again.close()


def outcome(at: Setting) -> Any:
    """Digests of all shards, or what the store says instead."""
    sink = at.sink()
    try:
        return {shard.index: sink.load(shard).digest for shard in at.shards()}
    except StoreError as error:
        return str(error)
    finally:
        sink.close()


@ANY_STORE
def test_missing_shards_are_a_fault_that_names_them(at: Setting) -> None:
    sink = at.sink()
    sink.begin()
    assert sink.fault([]) is None
    at.write(sink, at.layout.shard(0))
    assert sink.fault([0]) is None
    fault = sink.fault([0, 1])
    assert fault is not None
    for text in (fault, sink.where(at.layout.shard(1))):
        assert str(at.out) in text if at.case.files else Place.parse(sink.place).name in text
    with pytest.raises(StoreError):
        sink.load(at.layout.shard(4))
    sink.close()


@FILES
def test_a_crash_between_two_steps_of_publishing_is_finished_by_the_next(at: Setting) -> None:
    space = SpaceFingerprint.measure(at.new)

    def publish(folder: Path, fail_at: int) -> bool:
        """Whether publishing came to its end at once; it has after being tried again."""
        disk = FaultyDisk(0)
        sink = at.sink(folder=folder, fs=disk)
        at.written(sink)
        disk.fail_at = disk.calls + fail_at
        try:
            sink.publish(space)
            return True
        except StoreError:
            again = at.sink(folder=folder)
            again.begin()
            again.publish(space)
            assert again.published
            assert again.space == space
            at.check(again)
            again.close()
            return False
        finally:
            sink.close()

    reference = None
    for fail_at in range(1, 60):
        folder = at.out / "run"
        folder.mkdir()
        ended = publish(folder, fail_at)
        assert leftovers(folder) == []
        if at.case.same_bytes:
            digest = [tree_digest(path) for path in sorted(folder.iterdir())]
            reference = reference or digest
            assert digest == reference
        shutil.rmtree(folder)
        if ended:
            return
    pytest.fail("publishing never came to its end")


@FILES
def test_a_sink_never_replaces_what_is_not_its_own(at: Setting) -> None:
    sink = at.sink()
    at.written(sink)
    place = Place.parse(sink.place).path
    if at.case.folder:
        place.mkdir()
        (place / "mine").write_bytes(b"mine")
    else:
        place.write_bytes(b"mine")
    before = tree_digest(place)
    with pytest.raises(StoreError, match="appeared while the job ran"):
        sink.publish(None)
    assert tree_digest(place) == before
    sink.close()


@ANY_STORE
def test_another_process_goes_on_after_a_crash(at: Setting) -> None:
    """The first one is gone in the middle of a shard; nothing but the committed shards counts."""
    sink = at.sink()
    sink.begin()
    committed = {index: at.write(sink, at.layout.shard(index)) for index in (0, 1)}
    at.write(sink, at.layout.shard(2), wrong=1.0)  # written, but the crash came before its commit
    sink.close()
    again = at.sink()
    again.begin()
    assert again.fault([0, 1]) is None
    assert {index: again.load(at.layout.shard(index)).digest for index in (0, 1)} == committed
    for index in (2, 3, 4):
        at.write(again, at.layout.shard(index))
    again.publish(None)
    at.check(again)
    again.close()
    assert leftovers(at.out) == []
