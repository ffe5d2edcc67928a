"""What is special to the Parquet store: its columns, its files, what it refuses, and that the payload arrives as it was."""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from parquet_support import CountingDisk, flipped, gallery, layout_of, stored, vectors, written

from fct_fast.errors import ConfigError, DtypeError, FctError, ShapeError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores import Place, open_sink, open_source
from fct_fast.gallery.stores.arrow import VectorType, vector_array
from fct_fast.gallery.stores.npy import space_bytes
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink, Source
from fct_fast.space import SpaceFingerprint

Array = np.ndarray[Any, Any]


def read_all(source: Source, step: int = 70) -> tuple[Array, Any, pa.Table | None]:
    parts = [source.read(Shard(i, a, min(a + step, source.rows))) for i, a in enumerate(range(0, source.rows, step))]
    ids = None if parts[0].ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    payload = None if parts[0].payload is None else pa.concat_tables([part.payload for part in parts])
    return np.concatenate([part.old for part in parts]), ids, payload


# Columns


def test_the_only_column_of_vectors_and_the_usual_ids_need_no_name(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, gallery()))
    assert source.places == {"old": f"{tmp_path}/a.parquet#emb", "ids": f"{tmp_path}/a.parquet#id"}
    old, ids, payload = read_all(source)
    assert np.array_equal(old, vectors(230, 16))
    assert np.array_equal(ids, np.arange(230) * 7)
    assert payload is not None
    assert payload.column_names == ["text"]


def test_named_ids_may_be_text_and_the_usual_ones_then_travel_as_payload(tmp_path: Path) -> None:
    table = gallery().append_column("key", pa.array([f"kéy {i % 90 * i}-{i}" for i in range(230)]))
    for column in (
        table["key"],
        table["key"].combine_chunks().dictionary_encode(),
        table["key"].cast(pa.large_string()),
    ):
        path = stored(tmp_path, table.set_column(3, "key", column))
        source = open_source({"old": path, "ids": "#key"})
        _, ids, payload = read_all(source)
        assert ids.tolist() == table["key"].to_pylist()
        assert source.ids_dtype == ids.dtype == np.dtype("<U13")
        assert payload is not None
        assert payload.column_names == ["id", "text"]


def test_an_id_column_of_another_type_is_payload_with_a_note(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, gallery().set_column(0, "id", pa.array(np.arange(230) / 2))))
    assert source.ids_dtype is None
    assert [note for note in source.notes if "id" in note and "double" in note]


TABLE = gallery()
TWO = TABLE.append_column("psi", vector_array(vectors(230, 5), VectorType("fixed", np.dtype("<f4"), 5)))


@pytest.mark.parametrize(
    ("table", "source", "error", "sentence"),
    [
        (TABLE, "#emp", ConfigError, r"a\.parquet has no column 'emp'; it has id, emb, text"),
        (TABLE, "#text", DtypeError, r"#text is a column of string, not of vectors"),
        (TABLE.drop_columns(["emb"]), "", DtypeError, "has no column of float32 or float16 vectors; it has id: int64"),
        (TABLE.set_column(1, "emb", TABLE["emb"].cast(pa.list_(pa.float64(), 16))), "#emb", DtypeError, "cast it to"),
        (TWO, "", ConfigError, r"several columns of vectors, emb, psi; name one: .*a\.parquet#emb"),
        (TWO, {"ids": "#id", "side": "#id", "old": "#emb"}, DtypeError, "#id is a column of int64, not of vectors"),
        (TWO, {"side": "#id", "old": "#emb"}, DtypeError, "#id is a column of int64, not of vectors"),
        (TWO, {"side": "#none", "old": "#emb"}, ConfigError, "has no column 'none'"),
        (TWO, {"ids": "#none", "old": "#emb"}, ConfigError, "has no column 'none'"),
        (TWO, {"ids": "#psi", "old": "#emb"}, DtypeError, "ids are integers or text"),
        (TABLE, "?typo=1#emb", ConfigError, "has an option that is not known; the only one is dtype"),
        (TABLE, "?dtype=float64#emb", ConfigError, "has an option that is not known; the only one is dtype"),
        (TABLE.append_column("id", TABLE["id"]), "", ShapeError, r"a\.parquet has two columns of the name 'id'"),
        (TABLE.slice(0, 0), "", StoreError, r"a\.parquet has no rows; there is nothing to upgrade"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(
    tmp_path: Path, table: pa.Table, source: Any, error: type[FctError], sentence: str
) -> None:
    path = stored(tmp_path, table)
    named = {"old": f"{path}{source}"} if isinstance(source, str) else source | {"old": f"{path}{source['old']}"}
    with pytest.raises(error, match=sentence):
        open_source(named)


def test_side_information_is_found_beside_an_only_column_without_a_name(tmp_path: Path) -> None:
    source = open_source({"old": stored(tmp_path, TWO), "side": "#psi"})
    assert source.dims == {"old": 16, "side": 5}


def test_a_binary_holds_what_the_place_or_the_column_says(tmp_path: Path) -> None:
    path = stored(tmp_path, gallery(dtype="<f2", form="binary"))
    assert open_source(path).dims == {"old": 8}  # float32, where nobody says more
    source = open_source(f"{path}?dtype=float16#emb")
    assert np.array_equal(read_all(source)[0], vectors(230, 16, "<f2"))
    assert open_source(dict(source.places)).dims == {"old": 16}


# Rows that cannot be upgraded


@pytest.mark.parametrize("row", [0, 5, 60, 229])
@pytest.mark.parametrize("form", ["fixed", "binary", "list"])
def test_null_vectors_are_refused_by_row(tmp_path: Path, form: str, row: int) -> None:
    table = gallery(form=form)
    values = table["emb"].to_pylist()
    values[row] = None
    path = stored(tmp_path, table.set_column(1, "emb", pa.array(values, table["emb"].type)), row_group_size=60)
    with pytest.raises(StoreError, match=rf"a\.parquet#emb is NULL in row {row}; every row needs a vector"):
        read_all(open_source(f"{path}#emb"))


@pytest.mark.parametrize("row", [1, 60, 229])
def test_ragged_vectors_are_refused_by_row(tmp_path: Path, row: int) -> None:
    values = gallery(form="list")["emb"].to_pylist()
    values[row] = values[row][:-1]
    table = TABLE.set_column(1, "emb", pa.array(values, pa.list_(pa.float32())))
    path = stored(tmp_path, table, row_group_size=60)
    with pytest.raises(ShapeError, match=rf"#emb has 15 values in row {row}, not 16 as"):
        read_all(open_source(path))


def test_ids_must_be_there_and_unique(tmp_path: Path) -> None:
    for ids, sentence in [
        ([1, 2, None], "#id is NULL in row 2; every row needs an id"),
        ([1, 2, 1], "holds the id 1 twice, in rows 0 and 2"),
        (["a", "b", "a"], "holds the id 'a' twice, in rows 0 and 2"),
        (["a", "b", "c\0"], "ends in NUL in row 2"),
    ]:
        path = stored(tmp_path, gallery(3).set_column(0, "id", pa.array(ids)), row_group_size=2)
        with pytest.raises(StoreError, match=sentence):
            open_source(path)


# Files


def test_files_of_a_folder_must_agree(tmp_path: Path) -> None:
    stored(tmp_path, TABLE, "a.parquet")
    for other, sentence in [
        (TABLE.drop_columns(["text"]), r"the column 'text' is missing in .*b\.parquet, but string in .*a\.parquet"),
        (TABLE.append_column("x", TABLE["id"]), r"the column 'x' is int64 in .*b\.parquet, but missing in"),
        (TABLE.set_column(0, "id", TABLE["id"].cast(pa.int32())), r"'id' is int32 in .*b\.parquet, but int64 in"),
        (gallery(dim=8), r"'emb' is fixed_size_list<element: float>\[8\] in"),
    ]:
        stored(tmp_path, other, "b.parquet")
        with pytest.raises(ShapeError, match=sentence):
            open_source(tmp_path)
    stored(
        tmp_path, TABLE.set_column(0, "id", pa.array(np.arange(230) + 5000)).select(["text", "emb", "id"]), "b.parquet"
    )
    assert read_all(open_source(tmp_path))[1].tolist() == [*range(0, 1610, 7), *range(5000, 5230)]


def test_folders_may_name_columns(tmp_path: Path) -> None:
    for number, folder in enumerate(
        ["lang=de%20at/year=2020", "lang=en/year=2021", "lang=__HIVE_DEFAULT_PARTITION__/year=7"]
    ):
        stored(tmp_path / "data" / folder, TABLE.slice(50 * number, 50))
    source = open_source(tmp_path / "data")
    _, ids, payload = read_all(source, 45)
    assert payload is not None
    assert dict(
        zip(ids.tolist(), zip(*payload.select(["lang", "year"]).to_pydict().values(), strict=True), strict=True)
    ) == {7 * i: (("de at", 2020), ("en", 2021), (None, 7))[i // 50] for i in range(150)}
    assert payload.schema.field("year").type == pa.int32()
    expected = ds.dataset(tmp_path / "data", partitioning="hive").to_table().sort_by("id")
    assert (
        payload.append_column("id", pa.array(ids))
        .sort_by("id")
        .select(expected.drop_columns(["emb"]).column_names)
        .equals(expected.drop_columns(["emb"]))
    )
    layout = layout_of(source)
    sink = written(tmp_path / "new.parquet", source, layout, vectors(150, 8))
    sink.publish(None)
    assert pq.read_table(tmp_path / "new.parquet").column_names == ["id", "emb", "text", "lang", "year"]
    shutil.move(tmp_path / "data" / "lang=en", tmp_path / "data" / "other")
    with pytest.raises(ShapeError, match="all files must lie in folders of the same kind"):
        open_source(tmp_path / "data")


def test_a_pattern_names_files_and_what_would_join_them(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("x/a-1.parquet", "x/a-2.parquet", "y/a-1.parquet", "y/b-1.parquet", "y/_a-1.parquet")
    ):
        stored(tmp_path, TABLE.slice(10 * number, 10), name)
    source = open_source(f"{tmp_path}/*/a-?.parquet")
    assert read_all(source)[1].tolist() == [7 * i for i in range(30)]
    assert source.overlaps(Place.parse(tmp_path / "z" / "a-9.parquet"))
    assert source.overlaps(Place.parse(tmp_path / "x"))
    assert not source.overlaps(Place.parse(tmp_path / "z" / "new.parquet"))
    before = source.identity()
    stored(tmp_path, TABLE, "z/a-1.parquet")
    assert source.identity() != before


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, TABLE.schema) as writer:
        writer.write_table(TABLE)
    cases: list[tuple[bytes, str]] = [
        (b"", "is neither a Parquet nor an Arrow file"),
        (b"PAR", "is neither a Parquet nor an Arrow file"),
        (b"hello, world", "is neither a Parquet nor an Arrow file"),
        (b"PAR1", "cannot be read"),
        (b"PAR1" * 3, "cannot be read"),
        (b"PARE" + bytes(20) + b"PARE", "is an encrypted Parquet file"),
        (b"FEA1" + bytes(20), "is a Feather file of version 1"),
        (stream.getvalue().to_pybytes(), "is an Arrow stream, .*write it as a file"),
        (b"ARROW1\0\0", "cannot be read"),
        (stored(tmp_path, TABLE, "b.parquet").read_bytes()[:-1], "cannot be read"),
    ]
    for data, sentence in cases:
        path.write_bytes(data)
        with pytest.raises(StoreError, match=sentence) as caught:
            open_source(path)
        assert str(path) in str(caught.value)
    with pytest.raises(StoreError, match="cannot read .*none.parquet: No such file"):
        open_source(tmp_path / "none.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty holds no"):
        open_source(tmp_path / "empty")
    with pytest.raises(StoreError, match=r"x\*\.parquet holds no"):
        open_source(tmp_path / "x*.parquet")


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "parquet": lambda table, path: pq.write_table(table, path, row_group_size=100, write_page_checksum=True),
    "parquet plain": lambda table, path: pq.write_table(table, path, compression="none", use_dictionary=False),
    "arrow": lambda table, path: pyarrow.feather.write_feather(table, path, "uncompressed", chunksize=100),
    "feather": lambda table, path: pyarrow.feather.write_feather(table, path, "lz4", chunksize=100),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_errors_or_other_values_but_never_a_crash(tmp_path: Path, kind: str) -> None:
    """Bits flipped anywhere, and files cut short anywhere."""
    path, rng = tmp_path / f"a.{kind.split()[0]}", np.random.default_rng(0)
    nested = pa.array([[f"{i}"] * (i % 3) for i in range(230)])
    WRITERS[kind](gallery().append_column("more", nested), path)
    data = path.read_bytes()
    tail = range(len(data) - 600, len(data))  # the footer
    places = sorted({*rng.integers(0, len(data), 90).tolist(), *range(0, 100, 5), *tail[::8]})
    refused: list[str] = []
    for damaged in itertools.chain(flipped(data, places, rng), (data[:size] for size in places[::4])):
        path.write_bytes(damaged)
        try:
            old, ids, payload = read_all(open_source(path))
        except FctError as error:
            refused.append(str(error))
        else:
            assert len(damaged) == len(data)
            assert (len(old), len(payload or [])) == (230, 230)
            assert ids is None or len(ids) == 230  # None where the column has another name now
    assert len(refused) > len(places) // 3
    assert not [told for told in refused if str(path) not in told or "\n" in told]


def test_flipped_bits_under_checksums_are_refused(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.parquet", np.random.default_rng(1)
    pq.write_table(gallery(), path, write_page_checksum=True)
    data, whole = path.read_bytes(), read_all(open_source(path))
    for damaged in flipped(data, rng.integers(200, len(data) - 3000, 60).tolist(), rng):
        path.write_bytes(damaged)
        try:
            old, ids, payload = read_all(open_source(path))
        except StoreError:
            continue
        assert np.array_equal(old, whole[0])  # statistics, which are not used
        assert np.array_equal(ids, whole[1])
        assert payload == whole[2]


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = stored(tmp_path, TABLE, row_group_size=50)
    source = open_source(path)
    source.read(Shard(0, 0, 60))
    stored(tmp_path, gallery(seed=1), row_group_size=50)
    with pytest.raises(StoreError, match=r"a\.parquet was changed while it was read"):
        source.read(Shard(1, 60, 120))


def test_errors_of_the_disk_are_sentences(tmp_path: Path) -> None:
    class Failing(FileSystem):
        left = 1 << 30

        def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
            self.left -= 1
            if self.left < 0:
                raise OSError(5, "Input/output error")
            return super().pread(fd, buffer, offset)

    path, disk, told = stored(tmp_path, TABLE, row_group_size=50), Failing(), list[str]()
    ended = False
    for left in range(0, 400, 7):
        disk.left = left
        try:
            read_all(open_source(path, disk))
        except StoreError as error:
            told.append(str(error))
        else:
            ended = True
            break
    assert ended
    assert len(told) > 5
    assert set(told) == {
        f"cannot read {path}: Input/output error; the disk reports a fault; check it before running again"
    }


# Cost


def test_memory_is_bounded_whatever_the_size_of_a_row_group(tmp_path: Path) -> None:
    """Arrow alone would hold column chunks whole."""
    table = gallery(60_000, 128)
    for options in ({"use_dictionary": False, "compression": "none"}, {}):
        path = stored(tmp_path, table, row_group_size=1 << 20, **options)
        source = open_source(path)
        before, peak = pa.total_allocated_bytes(), 0
        for number, start in enumerate(range(0, 60_000, 1000)):
            source.read(Shard(number, start, start + 1000))
            peak = max(peak, pa.total_allocated_bytes() - before)
        assert peak <= source.held_bytes
        assert peak < path.stat().st_size / 3


def test_a_sample_reads_little_of_a_large_file(tmp_path: Path) -> None:
    table = gallery(40_000, 64)
    for options, part in (({"compression": "none", "row_group_size": 2000}, 10), ({"row_group_size": 1 << 20}, 3)):
        path, disk = stored(tmp_path, table, use_dictionary=False, **options), CountingDisk()
        source = open_source(path, disk)
        disk.read_bytes = 0
        sample = source.sample(256)
        assert len(np.unique(sample.old @ np.ones(64))) == len(sample.old) == 256
        assert disk.read_bytes < path.stat().st_size / part


def test_shards_in_a_row_read_every_byte_once(tmp_path: Path) -> None:
    path, disk = stored(tmp_path, gallery(20_000, 64), row_group_size=3000, use_dictionary=False), CountingDisk()
    source = open_source(path, disk)
    disk.read_bytes = 0
    for number, start in enumerate(range(0, 20_000, 700)):
        source.read(Shard(number, start, min(start + 700, 20_000)))
    assert disk.read_bytes < 1.3 * path.stat().st_size


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
