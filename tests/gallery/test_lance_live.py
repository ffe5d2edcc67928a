"""Upgrading a Lance dataset in place: its next version, others who write meanwhile, stops at every step."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from gallery_support import (
    NEW_DIM,
    FaultyDisk,
    tree_digest,
)
from lance_support import COUNT, TOKEN, Gallery, Watched, same

from fct_fast import errors
from fct_fast.fs import FileSystem
from fct_fast.gallery import Job, plan_backfill
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.protocol import LiveSink


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path)


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
