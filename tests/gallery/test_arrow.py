"""Arrow columns become numpy arrays with the same values, or are refused with the row that is wrong."""

from __future__ import annotations

import datetime
import itertools
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fct_fast.errors import DtypeError, FctError, ShapeError, StoreError
from fct_fast.gallery.stores.arrow import (
    VectorType,
    ids_array,
    ids_column,
    payload_schema,
    table_digest,
    vector_array,
    vector_column,
)

ROWS = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


@pytest.mark.parametrize("form", ["fixed", "binary"])
@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_vectors_go_there_and_back_and_are_not_copied(form: str, dtype: str) -> None:
    rows = ROWS.astype(dtype)
    column = vector_array(rows, VectorType(form, rows.dtype, 4))
    assert VectorType.of(column.type, "x", rows.dtype) == VectorType(form, rows.dtype, 4)
    back = vector_column(column, "x", binary=rows.dtype)
    assert back.dtype == rows.dtype
    assert np.array_equal(back, rows)
    assert np.shares_memory(back, rows)
    assert np.array_equal(vector_column(column.slice(3, 5), "x", binary=rows.dtype), rows[3:8])
    cut = pa.chunked_array([column.slice(0, 2), column.slice(2, 0), column.slice(2, 7), column.slice(9)])
    assert np.array_equal(vector_column(cut, "x", dim=4, binary=rows.dtype), rows)
    assert vector_column(cut.slice(0, 0), "x", dim=4, binary=rows.dtype).shape == (0, 4)


@pytest.mark.parametrize("list_type", [pa.list_, pa.large_list])
def test_lists_of_one_length_are_vectors(list_type: Any) -> None:
    column = pa.array(ROWS.tolist(), list_type(pa.float32()))
    assert np.array_equal(vector_column(column.slice(1, 6), "x"), ROWS[1:7])


def test_tensors_of_one_axis_are_vectors() -> None:
    """As Ray and Hugging Face store them."""
    storage = vector_array(ROWS, VectorType("fixed", ROWS.dtype, 4))
    column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [4]), storage)
    assert np.array_equal(vector_column(column, "x"), ROWS)


def fixed(*rows: Any) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32(), 2))


def lists(*rows: Any) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("column", "error", "sentence"),
    [
        (fixed([1, 2], None), StoreError, r"a\.parquet#x is NULL in row 101"),
        (pa.array([b"12345678", None], pa.binary(8)), StoreError, "is NULL in row 101"),
        (lists([1, 2], [1, 2], None), StoreError, "is NULL in row 102"),
        (pa.chunked_array([lists([1, 2]), lists([1, 2], None)]), StoreError, "is NULL in row 102"),
        (fixed([1, 2], [1, None]), StoreError, "NULL within the vector of row 101"),
        (lists([1, 2], [1, 2], [None, 1]), StoreError, "NULL within the vector of row 102"),
        (lists([1, 2], [1, 2, 3]), ShapeError, "has 3 values in row 101, not 2 as"),
        (pa.chunked_array([lists([1, 2]), lists([1])]), ShapeError, "has 1 values in row 101, not 2 as"),
        (lists([]), ShapeError, "has 0 values in row 100, not at least one"),
        (pa.array([[1.0, 2.0]]), DtypeError, r"is a column of list<item: double>, not of vectors.*cast\(pa\.list_"),
        (pa.array([1.0]), DtypeError, "is a column of double, not of vectors"),
        (pa.array([b"123"], pa.binary(3)), DtypeError, r"is a column of fixed_size_binary\[3\]"),
        (pa.array([[]], pa.list_(pa.float32(), 0)), DtypeError, "not of vectors"),
    ],
)
def test_what_are_no_vectors_is_refused_by_row(column: Any, error: type[FctError], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        vector_column(column, "a.parquet#x", first_row=100)
    assert str(caught.value).count("\n") == 0


def test_nan_is_left_to_the_kernel() -> None:
    assert np.isnan(vector_column(fixed([1, float("nan")]), "x")[0, 1])


@pytest.mark.parametrize("type_", [pa.int8(), pa.uint32(), pa.int64(), pa.uint64()])
def test_integer_ids_keep_their_type(type_: pa.DataType) -> None:
    column = pa.chunked_array([pa.array([3, 1], type_), pa.array([2], type_)])
    ids = ids_column(column, "x")
    assert (ids.tolist(), str(ids.dtype)) == ([3, 1, 2], str(type_))
    assert ids_array(ids, type_).equals(column.combine_chunks())


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_ids_have_the_width_of_the_longest(type_: pa.DataType) -> None:
    texts = ["a", "bcé𝄞", "", "a b"]
    ids = ids_column(pa.array(texts).cast(type_), "x")
    assert (ids.tolist(), ids.dtype) == (texts, np.dtype("<U4"))
    assert ids_array(ids, type_).to_pylist() == texts
    assert ids_array(ids, type_).type == type_
    assert ids_column(pa.array(["a"]).cast(type_), "x", dtype=np.dtype("<U4")).dtype == np.dtype("<U4")
    assert ids_column(pa.array([], pa.string()).cast(type_), "x").dtype == np.dtype("<U1")


@pytest.mark.parametrize(
    ("column", "error", "sentence"),
    [
        (pa.array([1, None]), StoreError, "x is NULL in row 11"),
        (pa.array(["a", None]), StoreError, "x is NULL in row 11"),
        (pa.array(["a", "b\0"]), StoreError, "ends in NUL in row 11"),
        (pa.array([1.0]), DtypeError, "is a column of double; ids are integers or text"),
        (pa.array([datetime.date(2020, 1, 1)]), DtypeError, "date32"),
    ],
)
def test_what_are_no_ids_is_refused(column: Any, error: type[FctError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        ids_column(column, "x", first_row=10)


def test_the_payload_is_all_else_with_the_metadata_of_the_whole() -> None:
    schema = pa.schema([("a", pa.int8()), ("v", pa.list_(pa.float32(), 2)), ("b", pa.string())], {"pandas": "{}"})
    assert payload_schema(schema, ["v"]).equals(
        pa.schema([("a", pa.int8()), ("b", pa.string())], {"pandas": "{}"}), check_metadata=True
    )


def some_of_everything(count: int = 40) -> pa.Table:
    texts = [None if i % 5 == 0 else "x" * i for i in range(count)]
    when = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    columns: dict[str, Any] = {
        "number": pa.array([None if i % 3 == 0 else i for i in range(count)]),
        "half": pa.array(np.arange(count), pa.float16()),
        "text": pa.array(texts),
        "view": pa.array(texts, pa.string_view()),
        "bytes": pa.array([None if t is None else t.encode() for t in texts], pa.large_binary()),
        "flag": pa.array([(True, None, False)[i % 3] for i in range(count)]),
        "list": pa.array([None if i % 4 == 0 else [str(j) for j in range(i % 7)] for i in range(count)]),
        "pair": pa.array([None if i % 2 else [i, None] for i in range(count)], pa.list_(pa.int16(), 2)),
        "struct": pa.array([None if i % 6 == 0 else {"x": i, "y": [i, None]} for i in range(count)]),
        "map": pa.array([[("k", i)] if i % 2 else None for i in range(count)], pa.map_(pa.string(), pa.int32())),
        "decimal": pa.array([Decimal(i) / 4 for i in range(count)], pa.decimal128(10, 2)),
        "time": pa.array([when] * (count - 1) + [None], pa.timestamp("us", "Europe/Vienna")),
        "span": pa.array([datetime.timedelta(seconds=i) for i in range(count)]),
        "kind": pa.array([str(i % 3) if i % 4 else None for i in range(count)]).dictionary_encode(),
        "runs": pc.run_end_encode(pa.array([i // 8 for i in range(count)])),
        "nothing": pa.nulls(count),
        "fixed": pa.array([b"ab"] * count, pa.binary(2)),
    }
    return pa.table(columns)


def test_a_digest_does_not_depend_on_how_a_table_is_cut() -> None:
    table, rng = some_of_everything(), np.random.default_rng(0)
    for _ in range(10):
        cuts = [0, *sorted(rng.integers(0, len(table), 4).tolist()), len(table)]
        parts = [table.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
        assert table_digest(pa.concat_tables(parts)) == table_digest(table)
    assert table_digest(table.slice(3, 20)) == table_digest(pa.table(table.slice(3, 20).to_pydict(), table.schema))
    backwards = pa.array(table["kind"].to_pylist()[::-1]).dictionary_encode().take(np.arange(len(table))[::-1])
    assert backwards.dictionary != table["kind"].chunk(0).dictionary
    other = table.set_column(table.column_names.index("kind"), "kind", backwards)
    assert table_digest(other) == table_digest(table)


@pytest.mark.parametrize("name", some_of_everything().column_names)
def test_a_digest_sees_every_change(name: str) -> None:
    table = some_of_everything()
    number = table.column_names.index(name)
    digests = {table_digest(table), table_digest(table.drop_columns([name])), table_digest(table.slice(0, 39))}
    digests.add(table_digest(table.rename_columns([n + "'" if n == name else n for n in table.column_names])))
    assert len(digests) == 4
    values = table.column(name).to_pylist()
    if name in ("nothing", "fixed"):  # all rows are equal
        return
    for row in (1, 7, 39):
        another = next(value for value in values if repr(value) != repr(values[row]))
        changed = pa.array([*values[:row], another, *values[row + 1 :]], table.schema.field(name).type)
        assert table_digest(table.set_column(number, name, changed)) not in digests


def test_what_lies_under_a_null_does_not_count() -> None:
    valid = pa.py_buffer(b"\x05")
    first, second = (
        pa.Array.from_buffers(pa.int32(), 3, [valid, pa.py_buffer(np.array(v, np.int32))])
        for v in ([1, 2, 3], [1, 9, 3])
    )
    assert first.equals(second)
    assert table_digest(pa.table({"a": first})) == table_digest(pa.table({"a": second}))
