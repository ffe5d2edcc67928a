"""Writing a new Lance dataset: columns, one version, what is on disk when, damage, and processes that are killed.

Run as a program (`python test_lance_sink.py FOLDER STEP`) it runs a job and is killed at a step. It is a process of its
own because Lance has threads, so that a fork after its import is not safe.
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
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from cases_lance import vectors
from gallery_support import leftovers, make_rows, small_bundle
from lance_support import COUNT, TOKEN, Gallery, Watched, same

from fct_fast import errors
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery import Job, backfill, plan_backfill
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.protocol import Layout
from fct_fast.space import SpaceFingerprint
from fct_fast.upgrader import Upgrader


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path)


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
    table = pa.table([pa.array(images, pa.large_binary()), vectors(np.ones((3, 2), np.float32))], schema=schema)
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
