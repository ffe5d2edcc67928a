"""Vectors are read from the pages of a Parquet file as Arrow reads them, whoever wrote them, or are left to Arrow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parquet_support import gallery, stored, vectors

from fct_fast.errors import CorruptError
from fct_fast.fs import DISK
from fct_fast.gallery.stores.arrow import VectorType
from fct_fast.gallery.stores.parquet.chunk_reader import ChunkReader
from fct_fast.gallery.stores.parquet.levels import all_defined, all_one_length
from fct_fast.gallery.stores.parquet.pages import Unusual
from fct_fast.gallery.stores.parquet.tables import open_table
from fct_fast.gallery.stores.parquet.thrift import ThriftError, read_struct, write_struct

Array = np.ndarray[Any, Any]


def readers(path: Path, kind: VectorType, dim: int) -> Iterator[tuple[ChunkReader, int]]:
    """A reader of each row group, and the group's rows."""
    table = open_table(path, DISK)
    for group, rows in enumerate(table.rows):
        chunk = table.chunk(group, "emb", kind, dim)
        assert chunk is not None
        yield ChunkReader(chunk, table.file.read_at), rows


def read_pages(path: Path, rows: Array, form: str = "fixed", steps: tuple[int, ...] = (1, 64, 7)) -> Array:
    """All vectors, without Arrow: some are read, one row at a time or many, and none is passed over."""
    parts, dim = [], rows.shape[1]
    kind = VectorType(form, rows.dtype, dim if form != "list" else 0)
    for reader, count in readers(path, kind, dim):
        done, sizes = 0, itertools.cycle(steps)
        while done < count:
            part = np.empty((min(next(sizes), count - done), dim), rows.dtype)
            reader.fill(part.view(np.uint8).reshape(len(part) * (1 if form == "binary" else dim), -1))
            parts.append(part)
            done += len(part)
    return np.concatenate(parts)


@pytest.mark.parametrize("form", ["fixed", "binary", "list"])
@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_pages_of_all_kinds_hold_the_vectors(
    tmp_path: Path, form: str, dtype: str, page: str, codec: str, dictionary: bool
) -> None:
    """Small pages, so that there are many; a dictionary that becomes too large in the middle of a column."""
    table = gallery(230, 16, dtype, form)
    path = stored(
        tmp_path,
        table,
        row_group_size=100,
        data_page_version=page,
        compression=codec,
        use_dictionary=dictionary,
        dictionary_pagesize_limit=3000,
        data_page_size=1000,
        write_batch_size=64,
        write_page_checksum=page == "1.0",
    )
    rows = vectors(230, 16, dtype)
    assert np.array_equal(read_pages(path, rows, form), rows)


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 9, 63, 100, 128, 500, 1000])
@pytest.mark.parametrize("nullable", [False, True])
def test_any_dim_is_read(tmp_path: Path, dim: int, nullable: bool) -> None:
    rows = vectors(300, dim)
    item = pa.field("item", pa.float32(), nullable)
    type_ = pa.list_(item, dim)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=type_)
    schema = pa.schema([pa.field("emb", type_, nullable)])
    path = stored(tmp_path, pa.table([column], schema), use_dictionary=False, data_page_size=4000, write_batch_size=50)
    assert np.array_equal(read_pages(path, rows), rows)


def test_values_split_in_byte_streams_are_read(tmp_path: Path) -> None:
    for dtype in ("<f4", "<f2"):
        path = stored(
            tmp_path,
            gallery(dtype=dtype).select(["emb"]),
            use_dictionary=False,
            use_byte_stream_split=True,
        )
        rows = vectors(230, 16, dtype)
        assert np.array_equal(read_pages(path, rows), rows)


def test_rows_that_are_passed_over_are_checked_all_the_same(tmp_path: Path) -> None:
    """Else a row that is too long would move all rows after it."""
    table = gallery(200, 4, form="list").to_pydict()
    path = stored(tmp_path, pa.table({"emb": pa.array(table["emb"], pa.list_(pa.float32()))}), data_page_size=100)
    kind = VectorType("list", np.dtype("<f4"), 0)
    reader, _ = next(readers(path, kind, 4))
    reader.skip(150 * 4)
    part = np.empty((50, 4), np.float32)
    reader.fill(part.view(np.uint8).reshape(-1, 4))
    assert np.array_equal(part, vectors(200, 4)[150:])
    table["emb"][10].append(1.0)
    table["emb"][11].pop()
    stored(tmp_path, pa.table({"emb": pa.array(table["emb"], pa.list_(pa.float32()))}), data_page_size=100)
    reader, _ = next(readers(path, kind, 4))
    with pytest.raises(Unusual, match="differing length"):
        reader.skip(150 * 4)


def test_null_and_other_encodings_are_left_to_arrow(tmp_path: Path) -> None:
    rows = vectors(230, 16)
    for form in ("binary", "list"):
        table = gallery(form=form)
        holed = pa.table({"emb": pa.array([*table["emb"].to_pylist()[:-1], None], table["emb"].type)})
        table = open_table(stored(tmp_path, holed), DISK)
        if form == "list":  # the footer tells that values are missing
            assert table.chunk(0, "emb", VectorType("list", np.dtype("<f4"), 0), 16) is None
        else:
            with pytest.raises(Unusual, match="NULL"):
                read_pages(table.file.path, rows, form)
    path = stored(tmp_path, gallery(form="binary"), use_dictionary=False, column_encoding={"emb": "DELTA_BYTE_ARRAY"})
    with pytest.raises(Unusual, match="is in the encoding"):
        read_pages(path, rows, "binary")


def test_a_page_that_does_not_fit_its_checksum_is_reported(tmp_path: Path) -> None:
    """Wherever the bit is; without checksums, nobody could tell."""
    rows = vectors(230, 16)
    for codec in ("none", "zstd"):
        path = stored(tmp_path, gallery().select(["emb"]), compression=codec, write_page_checksum=True)
        data = path.read_bytes()
        chunk = pq.read_metadata(path).row_group(0).column(0)
        start = chunk.dictionary_page_offset + 40  # after the header of the first page
        for position in np.linspace(start, start + 300, 20).astype(int).tolist():
            path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            with pytest.raises(CorruptError, match=r"a\.parquet#emb is damaged: the page at byte \d+ does not fit"):
                read_pages(path, rows)


# Levels


def hybrid(levels: list[int], width: int, cuts: list[int], packed: list[bool], padded: bool) -> bytes:
    """Levels encoded with runs that end where `cuts` say, as some writer might do it; in the end, bits that count for
    nothing."""
    rest = levels[len(levels) - len(levels) % 8 :] if padded else []
    levels = levels[: len(levels) - len(rest)]
    out, start = bytearray(), 0
    for cut, pack in zip([*cuts, len(levels)], itertools.cycle(packed), strict=False):
        groups = (min(cut, len(levels)) - start) // 8
        if pack and groups > 0:
            out += packed_run(levels[start : start + groups * 8], width)
            start += groups * 8
        while start < min(cut, len(levels)):
            end = next((i for i in range(start, cut) if levels[i : i + 1] != [levels[start]]), cut)
            out += varint((end - start) << 1) + levels[start].to_bytes(1, "little")
            start = end
    return bytes(out) + (packed_run((rest + [1] * 8)[:8], width) if rest else b"")


def packed_run(levels: list[int], width: int) -> bytes:
    number = sum(level << (width * i) for i, level in enumerate(levels))
    return varint((len(levels) // 8) << 1 | 1) + number.to_bytes(len(levels) // 8 * width, "little")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_levels_are_understood_whatever_runs_they_are_in(data: st.DataObject) -> None:
    """What is accepted has exactly one length; what has is accepted."""
    dim = data.draw(st.integers(1, 20))
    phase = data.draw(st.integers(0, dim - 1))
    count = data.draw(st.integers(1, 300))
    levels = [int((phase + i) % dim != 0) for i in range(count)]
    change = data.draw(st.one_of(st.none(), st.integers(0, count - 1)))
    if change is not None:
        levels[change] ^= 1
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=10)))
    packed = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    padded = data.draw(st.booleans())
    encoded = hybrid(levels, 1, cuts, packed, padded)
    assert all_one_length(memoryview(encoded), count, phase, dim) == (change is None)
    if change is None:
        assert not all_one_length(memoryview(encoded), count + 9, phase, dim)
        other = [int((phase + 1 + i) % dim != 0) for i in range(count)]
        assert all_one_length(memoryview(encoded), count, phase + 1, dim) == (other == levels)
    highest = data.draw(st.integers(1, 5))
    defined = [highest] * count
    if change is not None:
        defined[change] -= 1
    encoded = hybrid(defined, highest.bit_length(), cuts, packed, padded)
    assert all_defined(memoryview(encoded), count, highest) == (change is None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 200), st.integers(1, 9))
def test_any_bytes_are_no_levels_or_some(encoded: bytes, count: int, dim: int) -> None:
    for answer in (all_one_length(memoryview(encoded), count, 0, dim), all_defined(memoryview(encoded), count, dim)):
        assert answer in (True, False)


# Thrift


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_struct_or_an_error(data: bytes) -> None:
    try:
        struct, end = read_struct(data)
    except ThriftError:
        return
    assert 0 < end <= len(data)
    assert read_struct(write_struct(struct))[0] == struct


def test_footers_are_written_again_as_they_were(tmp_path: Path) -> None:
    for options in ({}, {"write_page_index": True}, {"store_schema": False, "write_statistics": False}):
        data = stored(tmp_path, gallery(), row_group_size=3, **options).read_bytes()
        size = int.from_bytes(data[-8:-4], "little")
        struct, end = read_struct(data[-8 - size : -8])
        assert (end, write_struct(struct)) == (size, data[-8 - size : -8])
