"""What is special to the Lance store: versions, deleted rows, the next version of the live dataset, crashes, bad input.

Run as a program (`python test_lance.py FOLDER STEP`) it writes a gallery and is killed at a step, for the crash tests.
"""

from __future__ import annotations

import datetime
import decimal
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from cases_lance import put_dataset, vectors
from gallery_support import (
    NEW_DIM,
    FaultyDisk,
    Stopped,
    leftovers,
    make_rows,
    small_bundle,
    stop_after,
    tree_digest,
)

from fct_fast import errors
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery import Job, backfill, plan_backfill
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.protocol import Layout, LiveSink, Shard, Sink
from fct_fast.space import SpaceFingerprint
from fct_fast.upgrader import Upgrader

COUNT, SHARD_ROWS, TOKEN = 230, 50, "0a1b2c3d"


class Gallery:
    """A dataset with deleted rows, payload and side-information, and what a job writes of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.rows = folder, make_rows(COUNT)
        self.path = folder / "items.lance"
        self.places = dict(put_dataset(folder, self.rows, True))
        if options:  # written anew, as another kind of dataset
            table = lance.dataset(str(self.path)).to_table()
            shutil.rmtree(self.path)
            lance.write_dataset(table, str(self.path), max_rows_per_file=100, **options)
        self.new = np.random.default_rng(9).standard_normal((COUNT, NEW_DIM)).astype(np.float32)
        self.up = Upgrader(small_bundle(self.rows), threads=1)

    def source(self) -> Any:
        return open_source(self.places)

    @cached_property
    def layout(self) -> Layout:
        """As the plan of a job keeps it, whatever becomes of the dataset."""
        source = self.source()
        self.read = source.read(Shard(0, 0, COUNT))
        return Layout(COUNT, NEW_DIM, np.dtype("<f4"), source.ids_dtype, SHARD_ROWS, source.payload, source.form)

    def sink(self, place: str = "new.lance", fs: Any = DISK, token: str = TOKEN) -> Any:
        return open_sink(str(self.folder / place), self.layout, token, fs)

    def write(self, sink: Sink, order: range | list[int] | None = None) -> dict[int, bytes]:
        sink.begin()
        return {index: self.write_one(sink, index) for index in (range(5) if order is None else order)}

    def write_one(self, sink: Sink, index: int) -> bytes:
        shard = self.layout.shard(index)
        part = slice(shard.start, shard.stop)
        return sink.write(shard, self.new[part], self.read.ids[part], self.read.payload.slice(shard.start, shard.rows))

    def ready(self, fs: Any = DISK) -> Any:
        """A gallery to be cut over in place, published."""
        sink = self.sink("items.lance", fs)
        self.write(sink)
        sink.publish(SpaceFingerprint.measure(self.new, model_id="new-1"))
        return sink

    def run(self, sink: str, **options: Any) -> Any:
        return backfill(self.places, str(self.folder / sink), self.up, shard_rows=SHARD_ROWS, **options)

    def table(self, version: Any = None) -> pa.Table:
        """What a reader of the live dataset sees."""
        return lance.dataset(str(self.path), version).to_table()

    def holds(self, new: bool) -> bool:
        """Whether the live dataset holds exactly the new rows, or exactly the old ones."""
        table = self.table()
        found = np.stack(table["embedding"].to_numpy())
        psi, ids = np.stack(table["psi"].to_numpy()), table["id"].to_numpy()
        assert np.array_equal(psi, self.rows.side)
        assert np.array_equal(ids, self.rows.ids)
        assert first_difference(self.rows.payload(), table) is None
        return np.array_equal(found, self.new if new else self.rows.old)


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables are equal, with NaN equal to NaN."""
    return one.schema.equals(other.schema) and first_difference(one, other) is None


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path)


def dataset_of(folder: Path, **columns: Any) -> str:
    path = str(folder / "made.lance")
    lance.write_dataset(pa.table(columns), path)
    return path


# Reading a version


def test_a_source_reads_its_version_whatever_others_write(gallery: Gallery) -> None:
    source = gallery.source()
    before, identity, version = source.read(Shard(0, 0, COUNT)), source.identity(), source.version
    lance.dataset(str(gallery.path)).delete("id < 300")
    more = gallery.table().slice(0, 9)
    more = more.set_column(more.schema.get_field_index("id"), "id", pa.array(range(9000, 9009)))
    lance.write_dataset(more, str(gallery.path), mode="append")
    assert np.array_equal(source.read(Shard(0, 0, COUNT)).old, before.old)
    assert source.identity() == identity
    assert source.places["old"] == f"{gallery.path}?version={version}#embedding"
    again = open_source(dict(source.places))  # as the plan of a job records them
    assert again.identity() == identity
    assert same(again.read(Shard(0, 0, COUNT)).payload, before.payload)
    latest = gallery.source()
    assert latest.identity() != identity
    assert latest.version == version + 2


def test_a_tag_names_a_version(gallery: Gallery) -> None:
    dataset = lance.dataset(str(gallery.path))
    dataset.tags.create("prod", dataset.version)
    dataset.delete("id = 0")
    source = open_source({"old": f"{gallery.path}?tag=prod#embedding"})
    assert (source.rows, source.places["old"]) == (COUNT, f"{gallery.path}?version={dataset.version - 1}#embedding")
    for options, message in (
        ("version=99", "cannot open .* at version 99"),
        ("version=x", "whole number"),
        ("tag=none", "tag none does not exist"),
        ("version=1&tag=prod", "takes version or tag"),
        ("branch=b", "takes version or tag"),
    ):
        with pytest.raises((errors.ConfigError, errors.StoreError), match=message):
            open_source(f"{gallery.path}?{options}#embedding")


def test_a_job_goes_on_with_its_version_or_says_that_another_was_asked_for(gallery: Gallery) -> None:
    with pytest.raises(Stopped):
        gallery.run("new.lance", progress=stop_after(2))
    version = gallery.source().version
    lance.dataset(str(gallery.path)).delete("id < 30")
    with pytest.raises(errors.LedgerMismatch, match=f"source version was {version} and is {version + 1}"):
        gallery.run("new.lance")
    gallery.places = {name: place.replace("#", f"?version={version}#") for name, place in gallery.places.items()}
    assert gallery.run("new.lance").rows == COUNT
    assert Job.open(gallery.folder / "new.lance.job").verify().passed


def test_a_version_that_was_removed_ends_the_job_with_a_sentence(gallery: Gallery) -> None:
    source = gallery.source()
    gallery_rows = gallery.table()
    lance.write_dataset(gallery_rows, str(gallery.path), mode="overwrite")
    lance.dataset(str(gallery.path)).cleanup_old_versions(datetime.timedelta(0), delete_unverified=True)
    with pytest.raises(errors.StoreError, match="cannot read rows 0 to 9 of .*items.lance: Not found"):
        source.read(Shard(0, 0, 10))
    with pytest.raises(errors.StoreError, match=r"cannot open .* at version \d+"):
        source.identity()


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.array([[1.5, 2], [3, 4], [5, 6]], pa.list_(pa.float32())), "<f4"),
        (pa.array([[1.5, 2], [3, 4], [5, 6]], pa.large_list(pa.float16())), "<f2"),
        (pa.array([[1.5, 2], [3, 4], [5, 6]], pa.list_(pa.float16(), 2)), "<f2"),
    ],
)
def test_vectors_in_lists_of_either_width(tmp_path: Path, column: pa.Array, dtype: str) -> None:
    source = open_source(dataset_of(tmp_path, v=column, tag=pa.array([1, 2, 3])))
    assert (source.dims, source.ids_dtype) == ({"old": 2}, None)
    rows = source.read(Shard(0, 1, 3))
    assert rows.old.dtype == dtype
    assert rows.old.tolist() == [[3, 4], [5, 6]]
    assert rows.payload is not None
    assert rows.payload.column_names == ["tag"]


def test_ids_are_named_or_called_id_and_may_be_text(tmp_path: Path) -> None:
    names = pa.array(["a", "bcd", "e"]).dictionary_encode()
    path = dataset_of(tmp_path, v=vectors(np.ones((3, 2), np.float32)), id=pa.array([[1], [2], [3]]), name=names)
    unusual = open_source(path)
    assert unusual.ids_dtype is None
    assert unusual.notes == [
        f"The column id of {path} is list<item: int64>, neither integer nor text: it travels as payload, ids are row positions."
    ]
    source = open_source({"old": path, "ids": "#name"})
    assert source.ids_dtype == np.dtype("<U3")
    assert source.all_ids().tolist() == ["a", "bcd", "e"]
    assert source.places["ids"].endswith("#name")
    layout = Layout(3, 2, np.dtype("<f4"), source.ids_dtype, 2, source.payload, source.form)
    sink = open_sink(str(tmp_path / "new.lance"), layout, TOKEN)
    sink.begin()
    for shard in map(layout.shard, range(2)):
        rows = source.read(shard)
        sink.write(shard, rows.old, rows.ids, rows.payload)
    sink.publish(None)
    table = lance.dataset(str(tmp_path / "new.lance")).to_table()
    assert table.column_names == ["v", "id", "name"]
    assert table["name"].to_pylist() == ["a", "bcd", "e"]


# Bad input


ONES = np.ones((3, 2), np.float32)
BAD: list[tuple[str, dict[str, Any], str, type[Exception], str]] = [
    (
        "NULL vector",
        {"v": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))},
        "#v",
        errors.StoreError,
        "NULL in row 1",
    ),
    (
        "ragged",
        {"v": pa.array([[1, 2], [3], [4, 5]], pa.list_(pa.float32()))},
        "#v",
        errors.ShapeError,
        "1 values in row 1",
    ),
    ("no vectors", {"v": pa.array([1.0, 2.0])}, "#v", errors.DtypeError, "not of vectors"),
    (
        "none to choose",
        {"v": pa.array([1.0, 2.0])},
        "",
        errors.DtypeError,
        "no column of float32 or float16 vectors; it has v",
    ),
    (
        "two to choose",
        {"v": vectors(ONES), "w": vectors(ONES)},
        "",
        errors.ConfigError,
        "several columns of vectors, v, w; name one",
    ),
    ("missing", {"v": vectors(ONES)}, "#w", errors.ConfigError, "has no column 'w'; it has v"),
    ("no rows", {"v": vectors(ONES[:0])}, "", errors.StoreError, "has no rows"),
    (
        "ids twice",
        {"v": vectors(ONES), "id": pa.array([7, 8, 7])},
        "",
        errors.StoreError,
        "holds the id 7 twice, in rows 0 and 2",
    ),
    ("ids NULL", {"v": vectors(ONES), "id": pa.array([7, None, 8])}, "", errors.StoreError, "#id is NULL in row 1"),
]


@pytest.mark.parametrize(("columns", "column", "error", "message"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD])
def test_columns_that_cannot_be_read_are_refused_by_name(
    tmp_path: Path, columns: dict[str, Any], column: str, error: type[Exception], message: str
) -> None:
    path = dataset_of(tmp_path, **columns)
    before = tree_digest(Path(path))
    with pytest.raises(error, match=message):
        open_source(path + column).read(Shard(0, 0, 3))
    assert tree_digest(Path(path)) == before


def test_what_is_no_dataset_or_a_damaged_one_is_a_sentence(gallery: Gallery) -> None:
    (gallery.folder / "file.lance").write_bytes(b"no dataset")
    (gallery.folder / "empty.lance").mkdir()
    for name in ("none.lance", "file.lance", "empty.lance"):
        with pytest.raises(errors.StoreError, match=f"{name} is no Lance dataset"):
            open_source(str(gallery.folder / name))
    manifest = max((gallery.path / "_versions").glob("*.manifest"), key=lambda path: path.stat().st_mtime_ns)
    whole = manifest.read_bytes()
    for damage in (b"", whole[:40], whole[:-16], b"\xff" * len(whole)):
        manifest.write_bytes(damage)
        with pytest.raises(errors.StoreError, match=r"cannot open .*items\.lance") as caught:
            gallery.source()
        assert ".rs:" not in str(caught.value)
        assert "\n" not in str(caught.value)
    manifest.write_bytes(whole)
    for change in (lambda path: path.write_bytes(path.read_bytes()[:100]), Path.unlink):
        for file in (gallery.path / "data").iterdir():
            change(file)
        with pytest.raises(errors.StoreError, match=r"data/.*\.lance (has 100 bytes, but \d+ were written|is missing)"):
            gallery.source()


def test_names_and_types_that_lance_cannot_keep_are_refused_before_a_job_begins(tmp_path: Path) -> None:
    def begin(payload: pa.Schema, place: str = "new.lance", ids: bool = False) -> None:
        dtype = np.dtype("<i8") if ids else None
        form = {"store": "parquet", "vector": "v"}
        layout = Layout(3, 2, np.dtype("<f4"), dtype, 3, payload.serialize().to_pybytes(), form)
        open_sink(str(tmp_path / place), layout, TOKEN).refuse_existing()

    for type_ in (pa.month_day_nano_interval(), pa.list_view(pa.int8())):
        with pytest.raises(errors.ConfigError, match="cannot keep the payload: Unsupported data type"):
            begin(pa.schema({"x": type_}))
    with pytest.raises(errors.ConfigError, match=r"cannot contain `\.`"):
        begin(pa.schema({"a.b": pa.int8()}))
    with pytest.raises(errors.ConfigError, match="two columns 'v'"):
        begin(pa.schema({"v": pa.int8()}))
    with pytest.raises(errors.ConfigError, match="two columns 'id'"):
        begin(pa.schema({"id": pa.int8()}), ids=True)
    with pytest.raises(errors.ConfigError, match="options"):
        begin(pa.schema({"a": pa.int8()}), "new.lance?version=3")
    begin(pa.schema({"v": pa.int8()}), "new.lance#w")
    assert list(tmp_path.iterdir()) == []


# Writing a new dataset


def payload_of_all_kinds() -> pa.Table:
    day, names = datetime.datetime(2020, 2, 29, 12), pa.array(["a", None, "b", ""])
    number = decimal.Decimal("1.20")
    item = pa.struct([("a", pa.int32()), ("b", pa.string())])
    return pa.table(
        {
            "text": names,
            "large": names.cast(pa.large_string()),
            "bytes": pa.array([b"\0\1", None, b"", b"x"]),
            "flag": pa.array([True, None, False, True]),
            "small": pa.array([-1, None, 127, 0], pa.int8()),
            "big": pa.array([2**64 - 1, None, 0, 1], pa.uint64()),
            "half": pa.array([1, None, 2, 3], pa.float16()),
            "day": pa.array([day.date(), None, day.date(), day.date()]),
            "zoned": pa.array([1, None, 2, 3], pa.timestamp("ns", "Europe/Berlin")),
            "plain": pa.array([day, None, day, day], pa.timestamp("ms")),
            "money": pa.array([number, None, number, number], pa.decimal128(8, 2)),
            "list": pa.array([[1, None], None, [], [3]], pa.list_(pa.int64())),
            "lists": pa.array([["a"], [None], None, []], pa.large_list(pa.string())),
            "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": None}, {"a": 2, "b": ""}], item),
            "items": pa.array([[{"a": 1, "b": "x"}], None, [], [{"a": None, "b": "y"}]], pa.list_(item)),
            "map": pa.array([[("k", 1)], None, [], [("l", None)]], pa.map_(pa.string(), pa.int32())),
            "other": pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
            "code": names.dictionary_encode(),
            "nothing": pa.nulls(4),
            "uuid": pa.array([b"0" * 16, None, b"1" * 16, b"2" * 16], pa.uuid()),
        }
    )


def test_payload_of_every_kind_arrives_unchanged(tmp_path: Path) -> None:
    payload = payload_of_all_kinds()
    table = payload.append_column("v", vectors(np.arange(8, dtype=np.float32).reshape(4, 2)))
    lance.write_dataset(table.replace_schema_metadata({"made by": "us"}), str(tmp_path / "items.lance"))
    source = open_source(str(tmp_path / "items.lance") + "#v")
    layout = Layout(4, 2, np.dtype("<f4"), None, 3, source.payload, source.form)
    sink = open_sink(str(tmp_path / "new.lance"), layout, TOKEN)
    sink.begin()
    for shard in map(layout.shard, range(2)):
        rows = source.read(shard)
        digest = sink.write(shard, rows.old * 2, None, rows.payload)
        loaded = sink.load(shard)
        assert loaded.digest == digest
        assert loaded.payload.equals(payload.slice(shard.start, shard.rows))
    sink.publish(None)
    written = lance.dataset(str(tmp_path / "new.lance"))
    assert written.to_table().drop_columns(["v"]).equals(payload)
    assert written.schema.names == table.column_names
    assert written.schema.metadata == {b"made by": b"us"}
    for name in payload.column_names:
        assert written.schema.field(name).type == payload.schema.field(name).type


def test_blobs_arrive_as_binary_values_and_the_plan_says_so(tmp_path: Path) -> None:
    images = [b"x" * 100, None, b"y" * 5000]
    field = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([field, pa.field("v", pa.list_(pa.float32(), 2))])
    table = pa.table([pa.array(images, pa.large_binary()), vectors(ONES)], schema=schema)
    lance.write_dataset(table, str(tmp_path / "items.lance"), data_storage_version="2.1")
    source = open_source(str(tmp_path / "items.lance"))
    assert source.notes == ["The blobs of column image travel as plain binary values."]
    layout = Layout(3, 2, np.dtype("<f4"), None, 3, source.payload, source.form)
    sink = open_sink(str(tmp_path / "new.lance"), layout, TOKEN)
    sink.begin()
    rows = source.read(layout.shard(0))
    digest = sink.write(layout.shard(0), rows.old, None, rows.payload)
    assert sink.load(layout.shard(0)).digest == digest
    sink.publish(None)
    assert sink.load(layout.shard(0)).payload["image"].to_pylist() == images
    with pytest.raises(errors.ConfigError, match="has blobs in image"):
        open_sink(str(tmp_path / "items.lance"), layout, TOKEN)


def test_a_gallery_is_one_version_with_one_fragment_a_shard_in_their_order(gallery: Gallery) -> None:
    sink = gallery.sink()
    gallery.write(sink, [3, 0, 4, 2, 1])
    assert not list(gallery.folder.rglob("new.lance*/**/*.manifest"))
    sink.publish(SpaceFingerprint.measure(gallery.new, model_id="new-1"))
    written = lance.dataset(str(gallery.folder / "new.lance"))
    assert (written.version, [v["version"] for v in written.versions()]) == (1, [1])
    assert written.tags.list() == {}  # which would keep others from cleaning up
    assert [fragment.count_rows() for fragment in written.get_fragments()] == [50, 50, 50, 50, 30]
    table = written.to_table()
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), gallery.new)
    assert np.array_equal(table["id"].to_numpy(), gallery.rows.ids)
    assert written.data_storage_version == lance.dataset(str(gallery.path)).data_storage_version
    nearest = {"column": "embedding", "q": gallery.new[7], "k": 1}
    assert written.to_table(nearest=nearest)["id"].to_pylist() == [gallery.rows.ids[7]]


def test_an_index_is_not_carried_over_and_the_plan_names_it(gallery: Gallery) -> None:
    dataset = lance.dataset(str(gallery.path))
    dataset.create_index("embedding", "IVF_FLAT", num_partitions=2, metric="cosine")
    dataset.create_scalar_index("title", "BTREE")
    for sink, way in (
        ("new.lance", "build it on the new gallery"),
        ("items.lance", "build it again after the cutover"),
    ):
        notes = plan_backfill(gallery.places, str(gallery.folder / sink), gallery.up).plan.notes
        assert len(notes) == (2 if sink == "new.lance" else 3)
        assert notes[0].startswith("The index embedding_idx (IVF_FLAT on embedding) is not ")
        assert all(note.endswith(f"{way}.") for note in notes[:2])


class Watched(FileSystem):
    """Notes which files and folders were flushed, and where a rename happened between."""

    def __init__(self) -> None:
        self.paths: dict[int, Path] = {}
        self.log: list[tuple[str, str]] = []

    def open(self, path: Path, flags: int) -> int:
        fd = super().open(path, flags)
        self.paths[fd] = path
        return fd

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.log.append(("flush", str(self.paths[fd])))

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.log.append(("rename", str(target)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.log.append(("delete", str(path)))


def test_all_that_lance_wrote_is_flushed_before_it_counts(gallery: Gallery) -> None:
    """Lance itself never calls fsync."""
    disk = Watched()
    sink = gallery.sink(fs=disk)
    sink.begin()
    gallery.write_one(sink, 0)
    (data,) = (gallery.folder / "new.lance.partial-0a1b2c3d/gallery/data").iterdir()
    record = disk.log.index(("rename", str(data.parent.parent.parent / "shard-000000.json")))
    assert disk.log.index(("flush", str(data))) < disk.log.index(("flush", str(data.parent))) < record
    gallery.write(sink)
    sink.publish(None)
    shown = disk.log.index(("rename", str(gallery.folder / "new.lance")))
    flushed = {path.split("/gallery/")[-1] for kind, path in disk.log[:shown] if kind == "flush"}
    files = [path for path in (gallery.folder / "new.lance").rglob("*") if path.is_file()]
    assert len(files) == 8  # five of rows, the manifest, its transaction and a hint
    for path in files:
        assert str(path.relative_to(gallery.folder / "new.lance")) in flushed
        assert str(path.parent.relative_to(gallery.folder / "new.lance")) in flushed
    assert ("flush", str(gallery.folder)) in disk.log[shown:]


def test_every_flipped_byte_of_what_waits_to_be_published_is_reported(gallery: Gallery) -> None:
    """Also where Lance would end the process on it, as its reader of single files does on some."""
    sink = gallery.sink()
    good = gallery.write(sink)
    staging = gallery.folder / "new.lance.partial-0a1b2c3d"
    shard = gallery.layout.shard(1)
    rng = np.random.default_rng(3)
    record = staging / "shard-000001.json"
    name = re.search(rb'"path": "([^"]+)"', record.read_bytes())
    assert name is not None
    for file in (record, staging / "gallery/data" / name[1].decode()):
        whole = file.read_bytes()
        for position in [0, len(whole) - 1, *rng.integers(0, len(whole), 150).tolist()]:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(errors.CorruptError, match="not as it was written|not hold the bytes"):
                sink.load(shard)
        file.write_bytes(whole[:-1])
        assert sink.fault([1])
        file.write_bytes(whole)
    assert sink.load(shard).digest == good[1]
    record.write_bytes(b"{}")  # as if it had never been written: the next process begins, and the shard is missing
    again = gallery.sink()
    again.begin()
    assert "not as it was written" in again.fault([0, 1, 2])
    gallery.write_one(again, 1)
    again.publish(None)
    assert {index: again.load(gallery.layout.shard(index)).digest for index in range(5)} == good
    assert len(list((gallery.folder / "new.lance/data").iterdir())) == 5


def test_rows_that_somebody_deletes_or_adds_later_are_noticed(gallery: Gallery) -> None:
    sink = gallery.sink()
    gallery.write(sink)
    sink.publish(None)
    state = sink.state()
    written = lance.dataset(str(gallery.folder / "new.lance"))
    written.create_scalar_index("title", "BTREE")
    written.tags.create("mine", 2)
    assert gallery.sink().state() == state  # the rows are the same
    written.delete(f"id = {gallery.rows.ids[60]}")
    assert gallery.sink().state() != state
    with pytest.raises(errors.CorruptError, match="has 49 rows, not the 50"):
        gallery.sink().load(gallery.layout.shard(1))
    lance.dataset(written.uri).restore()
    lance.write_dataset(written.to_table(), written.uri, mode="append")
    with pytest.raises(errors.CorruptError, match="has 6 fragments, not the 5"):
        gallery.sink().load(gallery.layout.shard(0))


# In place


@pytest.fixture(params=["2.2", "2.0", "legacy", "old names", "stable row ids", "as it is"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Gallery:
    options: dict[str, Any] = {
        "old names": {"enable_v2_manifest_paths": False},
        "stable row ids": {"enable_stable_row_ids": True},
        "as it is": {},
    }.get(request.param, {"data_storage_version": request.param})
    return Gallery(tmp_path, **options)


def test_the_next_version_replaces_the_vectors_and_nothing_else(kind: Gallery) -> None:
    schema, version = lance.dataset(str(kind.path)).schema, kind.source().version
    live, before = tree_digest(kind.path), kind.table()
    report = kind.run("items.lance")
    job = Job.open(report.job_dir)
    assert job.plan.store_cutover
    assert job.verify().passed
    assert tree_digest(kind.path) == live  # byte for byte
    (beside,) = kind.folder.glob("items.fct-*.lance")
    assert lance.dataset(str(beside)).count_rows() == COUNT  # can be searched before the cutover
    job.cutover()
    assert job.status().phase == "live"
    kind.new = kind.up(kind.rows.old, kind.rows.side)
    assert kind.holds(new=True)
    after = lance.dataset(str(kind.path))
    assert after.schema.names == schema.names
    assert after.schema.field("embedding").type == pa.list_(pa.float32(), NEW_DIM)
    assert after.version == version + 1
    assert open_source(f"{kind.path}#embedding").spaces["old"].model_id == "new-1"
    assert same(kind.table(f"fct-before-{beside.name[10:18]}"), before)
    assert not list(kind.folder.glob("items.fct-*"))
    job.cutover()
    assert lance.dataset(str(kind.path)).version == version + 1
    job.rollback()
    assert kind.holds(new=False)
    assert same(kind.table(), before)
    job.cutover()
    assert kind.holds(new=True)
    assert lance.dataset(str(kind.path)).version == version + 3
    lance.write_dataset(kind.table(), str(kind.path), mode="append")  # the dataset is one like any other
    assert lance.dataset(str(kind.path)).count_rows() == 2 * COUNT
    lance.dataset(str(kind.path)).validate()


def test_indices_are_gone_after_the_cutover_and_back_after_the_rollback(gallery: Gallery) -> None:
    lance.dataset(str(gallery.path)).create_index("embedding", "IVF_FLAT", num_partitions=2, metric="cosine")
    sink = gallery.ready()
    lance.dataset(str(gallery.path)).create_scalar_index("title", "BTREE")  # changes no row, so the cutover may follow

    def indices() -> list[str]:
        return sorted(index.name for index in lance.dataset(str(gallery.path)).describe_indices())

    sink.cut_over()
    assert indices() == []
    lance.dataset(str(gallery.path)).create_index("embedding", "IVF_FLAT", num_partitions=2, metric="cosine")
    sink.roll_back()
    assert indices() == ["embedding_idx", "title_idx"]
    assert gallery.holds(new=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: lance.dataset(path).delete("id = 3"),
        lambda path: lance.write_dataset(lance.dataset(path).to_table(limit=1), path, mode="append"),
        lambda path: lance.dataset(path).update({"price": "1.0"}, "id = 3"),
        lambda path: lance.dataset(path).add_columns({"more": "price * 2"}),
        lambda path: lance.dataset(path).optimize.compact_files(),
    ],
    ids=["delete", "append", "update", "add a column", "compact"],
)
def test_a_live_gallery_that_others_changed_is_neither_replaced_nor_rolled_back(
    gallery: Gallery, change: Callable[[str], Any]
) -> None:
    sink = gallery.ready()
    change(str(gallery.path))
    changed = tree_digest(gallery.path)
    with pytest.raises(errors.StoreError, match="is not the one that the job read"):
        sink.cut_over()
    assert tree_digest(gallery.path) == changed
    assert not sink.live
    with pytest.raises(errors.StoreError, match="already exists: another job"):
        gallery.sink("items.lance", token="ffffffff").refuse_existing()
    lance.dataset(str(gallery.path), gallery.layout.form["version"]).restore()
    sink.cut_over()
    change(str(gallery.path))
    changed = tree_digest(gallery.path)
    with pytest.raises(errors.StoreError, match="has changed since the cutover"):
        sink.roll_back()
    assert tree_digest(gallery.path) == changed
    assert sink.live


class Racing(FileSystem):
    """Somebody else commits at the last moment: when the transaction of our commit is put in its place."""

    def __init__(self, path: Path) -> None:
        self.path, self.armed = str(path), True

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        if target.suffix == ".txn" and self.armed:
            self.armed = False
            lance.write_dataset(lance.dataset(self.path).to_table(limit=2), self.path, mode="append")


def test_of_two_commits_at_one_moment_only_one_is_made(gallery: Gallery) -> None:
    sink = gallery.ready(Racing(gallery.path))
    with pytest.raises(errors.StoreError, match="is not the one that the job read"):
        sink.cut_over()
    assert lance.dataset(str(gallery.path)).count_rows() == COUNT + 2
    assert len(list((gallery.path / "data").iterdir())) == 5  # of the dataset's own, none of ours
    assert lance.dataset(str(gallery.path)).tags.list() == {}
    assert len(list((gallery.path / "_transactions").iterdir())) == lance.dataset(str(gallery.path)).version
    assert not sink.live
    assert {i: sink.load(gallery.layout.shard(i)).digest for i in range(5)}.keys() == set(range(5))


def test_a_cutover_is_on_disk_before_it_is_seen_and_before_anything_is_removed(gallery: Gallery) -> None:
    gallery.ready()
    again: list[list[tuple[str, str]]] = []
    for _ in range(2):  # the second finds it made, by a process that may have been killed before it was on disk
        disk = Watched()
        gallery.sink("items.lance", fs=disk).cut_over()
        again.append(disk.log)
    log, annex = again[0], str(gallery.folder / f"items.fct-{TOKEN}.annex.partial-{TOKEN}")
    version = lance.dataset(str(gallery.path)).version
    manifest = ("flush", f"{annex}/_versions/{2**64 - 1 - version}.manifest")
    seen = log.index(("flush", str(gallery.path / "_versions")))
    assert log.index(("flush", str(gallery.path / "data"))) < log.index(manifest) < seen
    assert any(kind == "flush" and path.startswith(f"{annex}/_transactions/") for kind, path in log[:seen])
    removed = [place for place, (kind, path) in enumerate(log) if kind == "delete" and f"fct-{TOKEN}.lance/" in path]
    tagged = ("rename", str(gallery.path / f"_refs/tags/fct-{TOKEN}.json"))
    assert seen < log.index(tagged) < min(removed)
    for log in again:
        for name in ("_versions", "_refs/tags", "data"):
            assert ("flush", str(gallery.path / name)) in log


def test_rows_prepared_for_the_old_version_cannot_join_the_new_one(gallery: Gallery) -> None:
    fragments = lance.fragment.write_fragments(gallery.table().slice(0, 5), str(gallery.path))
    version = lance.dataset(str(gallery.path)).version
    gallery.ready().cut_over()
    with pytest.raises(Exception, match="(?i)conflict|incompatible"):
        lance.LanceDataset.commit(str(gallery.path), lance.LanceOperation.Append(fragments), read_version=version)
    assert gallery.holds(new=True)


def test_the_two_galleries_of_a_cutover_survive_a_cleanup(gallery: Gallery) -> None:
    sink = gallery.ready()
    sink.cut_over()
    lance.dataset(str(gallery.path)).cleanup_old_versions(
        datetime.timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
    )
    sink.roll_back()
    lance.dataset(str(gallery.path)).cleanup_old_versions(
        datetime.timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
    )
    assert gallery.holds(new=False)
    sink.cut_over()
    assert gallery.holds(new=True)


def test_what_would_lose_rows_or_columns_is_refused_in_place(gallery: Gallery) -> None:
    def plan(place: str = "items.lance", **options: Any) -> None:
        plan_backfill(gallery.places, str(gallery.folder / place), gallery.up, **options)

    for options, message in (
        ({"limit": 100}, "would keep 100 of 230 rows"),
        ({"drop_payload": True}, "would lose the columns price, seen, title"),
        ({"place": "items.lance#psi"}, "is another column than was read"),
        ({"place": "items.lance/data"}, "lies in the source"),
        ({"place": "../" + gallery.folder.name}, "lies in the source, or holds it"),
    ):
        with pytest.raises(errors.ConfigError, match=message):
            plan(**options)
    plan("items.lance#embedding")
    version = gallery.source().version
    lance.dataset(str(gallery.path)).delete("id = 3")
    gallery.places = {name: place.replace("#", f"?version={version}#") for name, place in gallery.places.items()}
    with pytest.raises(errors.StoreError, match="is not the one that the job read"):
        plan()
    assert sorted(path.name for path in gallery.folder.iterdir()) == ["items.lance"]


@pytest.mark.parametrize("for_good", [False, True], ids=["error", "crash"])
@pytest.mark.parametrize("step", ["cut_over", "roll_back", "cut_over again"])
def test_a_stop_at_any_step_of_a_cutover_leaves_one_of_the_two_galleries(
    tmp_path: Path, step: str, for_good: bool
) -> None:
    """And doing it again ends it. Each step of the disk fails, once or with all that follow, as after a crash."""
    gallery = Gallery(tmp_path)
    gallery.ready()
    new = step != "roll_back"
    sink = gallery.sink("items.lance")
    for earlier in {"roll_back": ["cut_over"], "cut_over again": ["cut_over", "roll_back"]}.get(step, []):
        getattr(sink, earlier)()
    shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-start"))
    try:
        for fail_at in range(1, 100):
            disk = FaultyDisk(fail_at, for_good=for_good)
            crashing = gallery.sink("items.lance", fs=disk)
            action = step.split()[0]
            try:
                getattr(crashing, action)()
            except errors.StoreError:
                assert gallery.holds(new=True) or gallery.holds(new=False)
            again: LiveSink = gallery.sink("items.lance")
            getattr(again, action)()
            assert gallery.holds(new=new)
            assert again.live == new
            assert {f"fct-{TOKEN}", f"fct-before-{TOKEN}"} == set(lance.dataset(str(gallery.path)).tags.list())
            assert [path.name for path in tmp_path.iterdir()] == ["items.lance"]
            if disk.calls < fail_at:
                return
            shutil.rmtree(tmp_path)
            shutil.copytree(tmp_path.with_name(f"{tmp_path.name}-start"), tmp_path)
        pytest.fail("it never came to its end")
    finally:
        shutil.rmtree(tmp_path.with_name(f"{tmp_path.name}-start"))


# Crashes and full disks, in processes of their own: Lance has threads, so a fork after its import is not safe


class Deadly(FileSystem):
    """Ends the process, as a power failure or SIGKILL does, at the n-th call that changes the disk."""

    def __init__(self, step: int) -> None:
        self.step = step

    def _count(self) -> None:
        self.step -= 1
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path: Path, flags: int) -> int:
        self._count()
        return super().open(path, flags)

    def fsync(self, fd: int) -> None:
        self._count()
        super().fsync(fd)

    def replace(self, source: Path, target: Path) -> None:
        self._count()
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)


SOURCE = {"old": "items.lance#embedding", "side": "items.lance#psi"}


def job(folder: Path, fs: FileSystem) -> None:
    source = {name: folder / place for name, place in SOURCE.items()}
    backfill(source, folder / "new.lance", Upgrader(small_bundle(make_rows(COUNT)), threads=1), shard_rows=50, fs=fs)


def test_a_killed_process_leaves_a_job_that_ends_as_if_undisturbed(gallery: Gallery) -> None:
    """Killed while it writes shards, and while it publishes them."""
    start = gallery.folder / "start"
    shutil.copytree(gallery.path, start / "items.lance")
    counted = Deadly(0)
    job(gallery.folder, counted)
    expected = lance.dataset(str(gallery.folder / "new.lance")).to_table()
    for step in (-counted.step // 3, -counted.step - 30, -counted.step - 5):
        folder = gallery.folder / str(step)
        shutil.copytree(start, folder)
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        killed = subprocess.run(
            [sys.executable, __file__, folder, str(step)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            timeout=60,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        job(folder, DISK)
        assert same(lance.dataset(str(folder / "new.lance")).to_table(), expected)
        assert len(list((folder / "new.lance/data").iterdir())) == 5
        assert leftovers(folder) == []
        assert Job.open(folder / "new.lance.job").verify().passed


def test_a_full_disk_is_a_sentence_and_the_job_goes_on_later(gallery: Gallery) -> None:
    sink = gallery.sink()
    good = gallery.write(sink, [0])[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(
            errors.StoreError, match="cannot write a shard to .*: File too large .*; free some space"
        ) as caught:
            gallery.write_one(sink, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert gallery.write(gallery.sink())[0] == good
    sink.publish(None)
    assert len(list((gallery.folder / "new.lance/data").iterdir())) == 5


def test_what_a_killed_process_left_is_removed(gallery: Gallery) -> None:
    sink = gallery.sink()
    good = gallery.write(sink)
    staging = gallery.folder / "new.lance.partial-0a1b2c3d"
    for junk in (
        "gallery/data/1010.lance",
        "gallery/_versions/18446744073709551614.manifest",
        "gallery/_transactions/0-ab.txn",
        ".shard-000001.json.ab.tmp",
    ):
        (staging / junk).parent.mkdir(parents=True, exist_ok=True)
        (staging / junk).write_bytes(b"")  # such is a file that was never flushed, after a power cut
    again = gallery.sink()
    again.begin()
    assert {index: again.load(gallery.layout.shard(index)).digest for index in range(5)} == good
    again.publish(None)
    written = gallery.folder / "new.lance"
    assert sorted(path.name for path in gallery.folder.iterdir()) == ["items.lance", "new.lance"]
    assert len(list((written / "data").iterdir())) == 5
    assert lance.dataset(str(written)).version == 1


if __name__ == "__main__":
    job(Path(sys.argv[1]), Deadly(int(sys.argv[2])))
