"""A .npy file from anywhere is read as numpy reads it, or refused with a sentence; never unpickled, never mapped."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import OLD_DIM, store
from hypothesis import given, settings
from hypothesis import strategies as st

from fct_fast import errors
from fct_fast.fs import FileSystem
from fct_fast.gallery import backfill
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.npy_format import npy_header, parse_npy_header
from fct_fast.gallery.stores.protocol import Layout, Shard

GOOD = np.arange(10 * OLD_DIM, dtype=np.float32).reshape(10, OLD_DIM)


class Trap:
    """Unpickling this would leave a trace."""

    fired = False

    def __reduce__(self) -> Any:
        return (setattr, (Trap, "fired", True))


def saved(path: Path, array: Any) -> bytes:
    np.save(path, array, allow_pickle=True)
    return path.read_bytes()


def test_every_numpy_header_version_and_float_is_read(tmp_path: Path) -> None:
    for version in [(1, 0), (2, 0)]:
        for dtype in ("<f4", "<f2"):
            with (tmp_path / "a.npy").open("wb") as file:
                np.lib.format.write_array(file, GOOD.astype(dtype), version=version)
            source = open_source(tmp_path / "a.npy")
            assert np.array_equal(source.read(Shard(0, 3, 7)).old, GOOD[3:7].astype(dtype))


def test_our_header_is_read_by_numpy_and_never_changes(tmp_path: Path) -> None:
    """A resumed job finds its rows at the offsets that another version of numpy left them at."""
    header = npy_header(np.dtype("<f4"), (10, OLD_DIM))
    assert (
        header
        == b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10, 16)}".ljust(117) + b"\n"
    )
    for dtype in ("<f2", "<i8", "<U300", "S1", [("a", "<i4"), ("b", "<U5")]):
        array = np.zeros(3, dtype)
        (tmp_path / "a.npy").write_bytes(npy_header(array.dtype, array.shape) + array.tobytes())
        assert np.load(tmp_path / "a.npy").dtype == array.dtype
        assert len(npy_header(array.dtype, array.shape)) % 64 == 0


def test_files_that_cannot_be_used_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    good = saved(path, GOOD)
    wrong_shape = npy_header(np.dtype("<f4"), (-1, OLD_DIM))
    huge = npy_header(np.dtype("<f4"), (1 << 60, 1 << 20))
    cases: list[tuple[bytes, type[Exception], str]] = [
        (b"", errors.StoreError, "is not a .npy file"),
        (b"PK\x03\x04 a zip", errors.StoreError, "is not a .npy file"),
        (b"\x93NUMPY", errors.StoreError, "damaged .npy header"),
        (good[:30], errors.StoreError, "damaged .npy header"),
        (good[:9] + b"\xff" + good[10:], errors.StoreError, "damaged .npy header"),
        (good[:6] + b"\x09\x00" + good[8:], errors.StoreError, "damaged .npy header"),
        (good.replace(b"'descr'", b"'decsr'"), errors.StoreError, "damaged .npy header"),
        (good.replace(b"<f4", b"<f9"), errors.StoreError, "damaged .npy header"),
        (good.replace(b"(10, 16)", b"(1.,  6)"), errors.StoreError, "damaged .npy header"),
        (good.replace(b"False", b"__im("), errors.StoreError, "damaged .npy header"),
        (good[:-1], errors.StoreError, r"cut short: its header needs 768 bytes, the file has 767"),
        (good[:128], errors.StoreError, "cut short"),
        (good + b"\0", errors.StoreError, "has 1 bytes more than its header says"),
        (huge, errors.StoreError, "cut short"),
        (wrong_shape, errors.ShapeError, "negative extent"),
        (saved(path, np.array([Trap()] * 3, dtype=object)), errors.DtypeError, "never unpickled"),
        (pickle.dumps(Trap()), errors.StoreError, "is not a .npy file"),
        (saved(path, np.asfortranarray(GOOD)), errors.DtypeError, "Fortran order"),
        (saved(path, GOOD[0]), errors.ShapeError, r"has the shape \[16\]"),
        (saved(path, GOOD[None]), errors.ShapeError, r"must be \[rows, dim\]"),
        (saved(path, np.float32(3)), errors.ShapeError, r"has the shape \[\]"),
        (saved(path, GOOD[:, :0]), errors.ShapeError, r"must be \[rows, dim\]"),
        (saved(path, GOOD[:0]), errors.StoreError, "has no rows"),
        (saved(path, GOOD.astype(np.int64)), errors.DtypeError, "int64; save the embeddings as float32 or float16"),
        (saved(path, GOOD.astype(np.float64)), errors.DtypeError, "float64"),
        (saved(path, GOOD.astype(">f4")), errors.DtypeError, ">f4"),
        (saved(path, GOOD.astype(np.complex64)), errors.DtypeError, "complex64"),
        (saved(path, GOOD.astype("U4")), errors.DtypeError, "save the embeddings"),
    ]
    for data, error, sentence in cases:
        path.write_bytes(data)
        with pytest.raises(error, match=sentence) as caught:
            open_source(path)
        assert str(path) in str(caught.value)
    assert not Trap.fired


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 127), st.integers(0, 255), st.integers(0, 4000))
def test_any_byte_of_a_header_may_be_anything(position: int, value: int, size: int) -> None:
    """The parser gives a header that fits the file, or one of our errors."""
    head = bytearray(npy_header(np.dtype("<f4"), (10, OLD_DIM)))
    head[position] = value
    try:
        header = parse_npy_header(bytes(head), size, "a.npy")
    except errors.FctError:
        return
    rows = header.shape[0] if header.shape else 1
    assert header.offset + rows * header.row_bytes == size


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_after_the_magic_are_no_crash(tail: bytes) -> None:
    with pytest.raises(errors.FctError):
        parse_npy_header(b"\x93NUMPY\x01\x00" + tail, 1 << 40, "a.npy")


def test_ids_must_be_one_value_a_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GOOD)
    for ids, error, sentence in [
        (np.zeros((10, 2)), errors.ShapeError, "ids must be one value a row"),
        (np.float32(3), errors.ShapeError, "ids must be one value a row"),
        (np.array([{}] * 10, dtype=object), errors.DtypeError, "never unpickled"),
        (np.zeros(9), errors.ShapeError, r"the ids of .*a\.npy has 9 rows"),
    ]:
        np.save(tmp_path / "a.ids.npy", ids, allow_pickle=True)
        with pytest.raises(error, match=sentence):
            open_source(tmp_path / "a.npy")


def test_shards_of_a_folder_must_agree(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GOOD)
    np.save(tmp_path / "b.npy", GOOD[:, :7])
    with pytest.raises(errors.ShapeError, match=r"b\.npy holds float32 rows of \[7\], but .*a\.npy"):
        open_source(tmp_path)
    np.save(tmp_path / "b.npy", GOOD.astype(np.float16))
    with pytest.raises(errors.ShapeError, match="all shards must agree"):
        open_source(tmp_path)


def test_a_source_that_shrinks_while_it_is_read_is_an_error_not_a_signal(tmp_path: Path) -> None:
    """With a mapped file this would be SIGBUS."""
    stored = store(tmp_path)

    class Shrinking(FileSystem):
        reads = 0

        def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
            if len(buffer) == 100 * OLD_DIM * 4:
                self.reads += 1
                if self.reads == 3:
                    data = (tmp_path / "old.npy").read_bytes()
                    with (tmp_path / "old.npy").open("r+b") as file:
                        file.truncate(len(data) // 4)
            return super().pread(fd, buffer, offset)

    with pytest.raises(
        errors.StoreError, match=r"old\.npy ends at byte \d+, but \d+ bytes are needed: it was cut short"
    ):
        backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=100, fs=Shrinking())
    assert not (tmp_path / "new.npy").exists()


def test_begin_removes_the_leftovers_of_a_killed_process_and_nothing_else(tmp_path: Path) -> None:
    new = np.random.default_rng(0).standard_normal((100, 12)).astype(np.float32)
    layout = Layout(100, 12, np.dtype("<f4"), None, 50)
    for name in ("new.npy", "new"):
        sink = open_sink(tmp_path / name, layout, "token")
        sink.begin()
        for shard in map(layout.shard, (0, 1)):
            sink.write(shard, new[shard.start : shard.stop], None, None)
        sink.close()
        partial = tmp_path / f"{name}.partial-token"
        inside = partial if partial.is_dir() else tmp_path
        stale = inside / (".part-000000.npy.12ab.tmp" if partial.is_dir() else f".{partial.name}.12ab.tmp")
        stale.write_bytes(b"half")
        foreign = tmp_path / ".notes.12ab.tmp"
        foreign.write_bytes(b"mine")
        again = open_sink(tmp_path / name, layout, "token")
        again.begin()
        assert not stale.exists()
        assert foreign.exists()
        assert np.array_equal(again.load(layout.shard(1)).new, new[50:])
        again.close()


def test_ids_that_stand_twice_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", np.ones((5, 2), np.float32))
    np.save(tmp_path / "old.ids.npy", np.array(["a", "b", "c", "b", "d"]))
    with pytest.raises(errors.StoreError, match=r"holds the id 'b' twice, in rows 1 and 3; ids must be unique"):
        open_source(tmp_path / "old.npy")
