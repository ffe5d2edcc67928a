"""Reading Parquet and Arrow files: damage, faults of the disk, and what a read costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from parquet_support import CountingDisk, flipped, gallery, read_all, stored

from fct_fast.errors import FctError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.protocol import Shard

TABLE = gallery()


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
