"""Parquet files that are written: the payload arrives as it was, parts and the whole are held against each other."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from parquet_support import flipped, gallery, layout_of, read_all, stored, vectors, written

from fct_fast.errors import ConfigError, ShapeError, StoreError
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.npy import space_bytes
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink
from fct_fast.space import SpaceFingerprint

TABLE = gallery()


# Payload


def users_columns(count: int = 230) -> pa.Table:
    """Columns of all kinds, with nulls; an ordered category has an order of its own."""
    when = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
    sizes = pa.DictionaryArray.from_arrays(
        pa.array([None if i % 9 == 4 else i % 3 for i in range(count)], pa.int8()),
        ["small", "large", "none"],
        ordered=True,
    )
    columns: dict[str, Any] = {
        "text": pa.array([None if i % 5 == 2 else f'"{chr(945 + i % 24)}" {i}' for i in range(count)]),
        "long text": pa.array(["y" * (i % 50) for i in range(count)], pa.large_string()),
        "bytes": pa.array([bytes([i % 256]) * 3 for i in range(count)]),
        "number": pa.array([None if i % 4 == 1 else i / 7 for i in range(count)]),
        "nan": pa.array([float("nan")] * count),
        "small": pa.array([i % 100 for i in range(count)], pa.uint8()),
        "flag": pa.array([None if i % 3 == 0 else i % 2 == 0 for i in range(count)]),
        "price": pa.array([Decimal(i) / 100 for i in range(count)], pa.decimal128(12, 2)),
        "seen": pa.array(
            [when + datetime.timedelta(hours=i) for i in range(count)], pa.timestamp("us", "Europe/Vienna")
        ),
        "day": pa.array([when.date()] * count),
        "ns": pa.array(np.arange(count), pa.timestamp("ns")),
        "took": pa.array(np.arange(count), pa.duration("ms")),
        "tags": pa.array([None if i % 7 == 0 else [f"t{j}" for j in range(i % 4)] for i in range(count)]),
        "box": pa.array([{"x": i, "name": None if i % 2 else "b", "at": [1.5, None]} for i in range(count)]),
        "map": pa.array([[("a", i)] for i in range(count)], pa.map_(pa.string(), pa.int64())),
        "kind": pa.array([f"k{i % 3}" for i in range(count)]).dictionary_encode(),
        "size": sizes,
        "uuid": pa.array([uuid.UUID(int=i).bytes for i in range(count)], pa.uuid()),
        "pair": pa.array([[i, None] for i in range(count)], pa.list_(pa.int16(), 2)),
        "nothing": pa.nulls(count),
        "id.x": pa.array(np.arange(count)),
    }
    return pa.table(columns)


@pytest.mark.parametrize("name", ["new.parquet", "new"])
@pytest.mark.parametrize("form", ["fixed", "binary"])
def test_payload_arrives_as_it_was(tmp_path: Path, name: str, form: str) -> None:
    """Values, types, order of columns and metadata; as plain Arrow reads them."""
    payload = users_columns()
    table = gallery(form=form).select(["id", "emb"])
    for number, column in enumerate(payload.column_names):
        table = table.add_column(number if number < 3 else table.num_columns, payload.field(number), payload[column])
    pandas = json.dumps({"index_columns": [], "columns": [], "creator": {"library": "test"}})
    stale = {"fct_fast.space": "{}", "huggingface": "{}"}
    table = table.replace_schema_metadata(
        {"pandas": pandas, "mine": "é", **({} if form == "fixed" else {"huggingface": "{}"})}
    )
    source = open_source(f"{stored(tmp_path, table, row_group_size=64)}#emb")
    new = vectors(230, 8, seed=3)
    sink = written(tmp_path / name, source, layout_of(source), new)
    sink.publish(SpaceFingerprint.measure(new, model_id="new"))
    result = pq.read_table(tmp_path / name)
    assert result.column_names == table.column_names
    expected = pq.read_table(tmp_path / "a.parquet").drop_columns(["emb", "nan"])
    for found in (result, ds.dataset(tmp_path / name).to_table()):
        assert found.drop_columns(["emb", "nan"]).equals(expected)
        assert found.drop_columns(["emb"]).schema.equals(table.drop_columns(["emb"]).schema)
        assert np.isnan(found["nan"].to_numpy()).all()
    assert result["size"].chunk(0).dictionary.to_pylist() == ["small", "large", "none"]
    metadata = result.schema.metadata or {}
    assert (metadata[b"pandas"], metadata[b"mine"]) == (pandas.encode(), "é".encode())
    assert not set(map(str.encode, stale)) & set(metadata) - {b"fct_fast.space"}
    assert result.schema.field("emb").type == (pa.binary(32) if form == "binary" else pa.list_(pa.float32(), 8))
    back = open_source(sink.place)
    assert np.array_equal(read_all(back)[0], new)
    assert back.spaces["old"].model_id == "new"


def test_readers_can_leave_out_row_groups_by_their_statistics(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, TABLE))
    written(tmp_path / "new.parquet", source, layout_of(source), vectors(230, 8)).publish(None)
    meta = pq.read_metadata(tmp_path / "new.parquet")
    assert (meta.num_rows, meta.num_row_groups) == (230, 5)
    columns = {meta.row_group(0).column(i).path_in_schema: i for i in range(meta.num_columns)}
    ids = [meta.row_group(group).column(columns["id"]).statistics for group in range(5)]
    assert [(found.min, found.max) for found in ids] == [(350 * i, min(350 * i + 343, 1603)) for i in range(5)]
    assert not meta.row_group(0).column(columns["emb.list.element"]).is_stats_set
    assert pq.read_table(tmp_path / "new.parquet", filters=[("id", "=", 707)])["text"].to_pylist() == ["text 101"]


# The sink


def test_a_single_file_is_its_parts_byte_for_byte(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, TABLE))
    layout, new = layout_of(source), vectors(230, 8)
    sink = written(tmp_path / "new.parquet", source, layout, new)
    parts = [Path(sink.where(layout.shard(index)).split(",")[0]).read_bytes() for index in range(layout.shards)]
    sink.publish(None)
    whole = (tmp_path / "new.parquet").read_bytes()
    place = 4
    for part in parts:
        data = part[4 : -8 - int.from_bytes(part[-8:-4], "little")]
        assert whole[place : place + len(data)] == data
        place += len(data)
    folder = written(tmp_path / "new", source, layout, new)
    assert [path.read_bytes() for path in sorted((tmp_path / "new.partial-0a1b2c3d").iterdir())] == parts
    folder.publish(None)
    assert [path.read_bytes() for path in sorted((tmp_path / "new").glob("part-*"))] == parts


def test_every_bit_of_the_common_footer_counts(tmp_path: Path) -> None:
    """All that readers go by is held against the parts, or has no effect on anybody."""
    source, rng = open_source(stored(tmp_path, gallery(20).select(["id", "emb"]))), np.random.default_rng(0)
    layout = layout_of(source, shard_rows=10)
    sink = written(tmp_path / "new.parquet", source, layout, vectors(20, 8))
    sink.publish(SpaceFingerprint.measure(vectors(20, 8), model_id="n"))
    path = tmp_path / "new.parquet"
    data = path.read_bytes()
    good = [sink.load(layout.shard(index)).digest for index in (0, 1)]
    space = sink.space
    assert space is not None
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    silent, places = [], np.sort(rng.choice(range(start, len(data)), 600, replace=False)).tolist()
    for position, damaged in zip(places, flipped(data, places, rng), strict=True):
        path.write_bytes(damaged)
        try:
            found = [sink.load(layout.shard(index)).digest for index in (0, 1)]
            if found == good and sink.space == space:
                silent.append(position)
        except StoreError:
            pass
    stamp = data.index(space_bytes(space))  # the last digits of its numbers may be others
    assert [place for place in silent if not stamp <= place < stamp + len(space_bytes(space))] == []


def test_a_damaged_file_is_repaired_in_place_or_built_anew(tmp_path: Path) -> None:
    source, rng = open_source(stored(tmp_path, TABLE)), np.random.default_rng(0)
    layout, new, path = layout_of(source), vectors(230, 8), tmp_path / "new.parquet"
    sink = written(path, source, layout, new)
    space = SpaceFingerprint.measure(new, model_id="new")
    sink.publish(space)
    data, shards = path.read_bytes(), [layout.shard(index) for index in range(layout.shards)]
    digests, rows = [sink.load(shard).digest for shard in shards], [source.read(shard) for shard in shards]
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    stamp = data.index(space_bytes(space))  # is not of the shards
    footer = [place for place in range(start, len(data)) if not stamp <= place < stamp + len(space_bytes(space))]
    places = [*rng.integers(4, start, 8).tolist(), *rng.choice(footer, 30).tolist()]
    kinds = {"in place": 0, "anew": 0, "refused": 0}
    both_ends = data[:20] + b"!" + data[21:-1]
    for damaged in [*flipped(data, places, rng), data[:-1], data + bytes(64), b"", both_ends]:
        path.write_bytes(damaged)
        sink = open_sink(path, layout, "0a1b2c3d")
        sink.begin()
        try:
            for shard, digest, row in zip(shards, digests, rows, strict=True):
                if loaded(sink, shard) != digest:
                    assert sink.write(shard, new[shard.start : shard.stop], row.ids, row.payload) == digest
        except StoreError as error:
            kinds["refused"] += 1
            assert "move it away" in str(error)  # noqa: PT017
            assert path.read_bytes() == damaged
        else:
            kinds["in place" if sink.published else "anew"] += 1
            sink.publish(space)
            assert [loaded(sink, shard) for shard in shards] == digests
            assert path.read_bytes() == data
    assert min(kinds.values()) > 0
    assert kinds["in place"] > 15


def loaded(sink: Sink, shard: Shard) -> bytes | None:
    """The digest of a shard, None where it cannot be read."""
    try:
        return sink.load(shard).digest
    except StoreError:
        return None


def test_a_file_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    """Neither one that appears before the first shard is written, nor one that took the place of ours."""
    source = open_source(stored(tmp_path, TABLE))
    layout, new, path = layout_of(source), vectors(230, 8), tmp_path / "new.parquet"
    sink, rows = open_sink(path, layout, "0a1b2c3d"), source.read(layout.shard(0))
    sink.begin()
    stored(tmp_path, gallery(seed=5), "new.parquet")
    foreign = path.read_bytes()
    sink.write(layout.shard(0), new[:50], rows.ids, rows.payload)
    assert path.read_bytes() == foreign
    with pytest.raises(StoreError, match="appeared while the job ran"):
        written(path, source, layout, new).publish(None)
    path.unlink()
    written(path, source, layout, new).publish(None)
    for other in (foreign, foreign[:-1], b"PAR1 mine"):
        path.write_bytes(other)
        again = open_sink(path, layout, "0a1b2c3d")
        again.begin()
        with pytest.raises(StoreError):
            again.load(layout.shard(0))
        for shard in (layout.shard(0), layout.shard(1)):
            rows = source.read(shard)
            with pytest.raises(StoreError, match="is not what this job wrote there; move it away"):
                again.write(shard, new[shard.start : shard.stop], rows.ids, rows.payload)
        assert path.read_bytes() == other


def test_parts_of_two_versions_of_arrow_are_not_joined(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, TABLE))
    layout = layout_of(source)
    sink = written(tmp_path / "new.parquet", source, layout, vectors(230, 8))
    part = Path(sink.where(layout.shard(3)).split(",")[0])
    version = f"version {pa.cpp_version}".encode()
    part.write_bytes(part.read_bytes().replace(version, version[:-1] + b"~"))
    with pytest.raises(StoreError, match="cannot be joined: one was written by another version of Arrow"):
        sink.publish(None)
    assert not (tmp_path / "new.parquet").exists()


def test_the_form_of_vectors_is_the_source_s_or_as_the_place_says(tmp_path: Path) -> None:
    for form, place, expected in [
        ("fixed", "new.parquet", pa.list_(pa.float16(), 8)),
        ("list", "new.parquet", pa.list_(pa.float16(), 8)),
        ("binary", "new.parquet", pa.binary(16)),
        ("fixed", "new.parquet?vectors=binary", pa.binary(16)),
        ("binary", "new.parquet?vectors=fixed#vec", pa.list_(pa.float16(), 8)),
    ]:
        source, new = open_source(f"{stored(tmp_path, gallery(form=form))}#emb"), vectors(230, 8, "<f2")
        sink = written(f"{tmp_path}/{place}", source, layout_of(source, dtype="<f2"), new)
        sink.publish(None)
        name = "vec" if "#" in place else "emb"
        assert pq.read_schema(tmp_path / "new.parquet").field(name).type == expected
        back = open_source(sink.place)
        assert np.array_equal(read_all(back)[0], new)
        assert back.places["old"].endswith(f"#{name}")
        (tmp_path / "new.parquet").unlink()


@pytest.mark.parametrize(
    ("place", "changes", "sentence"),
    [
        ("new.arrow", {}, "is read but not written; choose a sink that ends in .parquet"),
        ("new.parquet?vectors=list", {}, "has an option that is not known; the only one is vectors=fixed or binary"),
        ("new.parquet?codec=zstd", {}, "has an option that is not known"),
        ("new.parquet#text", {}, "would have two columns of the name 'text'; name the one of the vectors"),
        ("new.parquet#id", {}, "would have two columns of the name 'id'"),
        ("new.parquet", {"ids_dtype": np.dtype("S4")}, r"keeps ids that are integers or text, not \|S4"),
        (
            "new.parquet",
            {"payload": pa.schema([("u", pa.dense_union([pa.field("a", pa.int8())]))]).serialize().to_pybytes()},
            "cannot keep the payload .*drop_payload=True",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path, place: str, changes: dict[str, Any], sentence: str
) -> None:
    payload = pa.schema([("text", pa.string())]).serialize().to_pybytes()
    options = {"rows": 10, "dim": 4, "dtype": np.dtype("<f4"), "ids_dtype": np.dtype("<i8"), "shard_rows": 5}
    layout = Layout(**options | {"payload": payload} | changes)
    with pytest.raises(ConfigError, match=sentence):
        open_sink(f"{tmp_path}/{place}", layout, "t")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_store_get_plain_names(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", vectors(20, 4))
    np.save(tmp_path / "old.ids.npy", np.array([f"ä{i}" for i in range(20)]))
    source = open_source(tmp_path / "old.npy")
    written(tmp_path / "new.parquet", source, layout_of(source), vectors(20, 8)).publish(None)
    table = pq.read_table(tmp_path / "new.parquet")
    assert table.column_names == ["id", "embedding"]
    assert table["id"].to_pylist() == [f"ä{i}" for i in range(20)]


def test_shards_of_other_columns_or_lengths_are_refused(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, TABLE))
    layout = layout_of(source)
    sink = open_sink(tmp_path / "new.parquet", layout, "t")
    sink.begin()
    rows = source.read(layout.shard(0))
    for ids, payload in ((rows.ids[:3], rows.payload), (rows.ids, None), (rows.ids, rows.payload.slice(1))):
        with pytest.raises(ShapeError, match="a shard of 50 rows was given with the columns"):
            sink.write(layout.shard(0), vectors(50, 8), ids, payload)
