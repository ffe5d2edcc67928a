"""What columns and files the Parquet store takes for a gallery, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from parquet_support import gallery, layout_of, read_all, stored, vectors, written

from fct_fast.errors import ConfigError, DtypeError, FctError, ShapeError, StoreError
from fct_fast.gallery.stores import Place, open_source
from fct_fast.gallery.stores.arrow import VectorType, vector_array

TABLE = gallery()


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
