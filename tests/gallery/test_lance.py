"""Reading Lance datasets: versions and tags, columns of many kinds, and bad input, each refused with a sentence."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from cases_lance import vectors
from gallery_support import (
    Stopped,
    stop_after,
    tree_digest,
)
from lance_support import COUNT, TOKEN, Gallery, same

from fct_fast import errors
from fct_fast.gallery import Job
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.protocol import Layout, Shard


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
