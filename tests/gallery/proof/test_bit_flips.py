"""One flipped bit, wherever it is, in a shard, in the ledger, in the bundle: it is reported, or it has no effect on any
answer and lies where no answer could depend on it. No wrong row, record or weight is ever served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import FlippingDisk, Shard0, content
from galleries import EACH, Bench, chosen
from sqlite_values import stored_values
from store_cases import Case

from fct_fast.bundle import read_bundle
from fct_fast.errors import BundleError, StoreError
from fct_fast.gallery.job.session import Session

ROWS = 1363  # of 48 bytes: a shard of 64 KiB
SAMPLE = 1500  # flips of each file in the short form
HOW_MANY = pytest.mark.parametrize(
    "count", [SAMPLE, pytest.param(None, marks=pytest.mark.stress)], ids=["sample", "all"]
)


def bits(size: int, count: int | None) -> Iterator[int]:
    """The numbers of all bits of a file of `size` bytes, or of `count` of them, no two in one place of a few bytes."""
    if count is None:
        yield from range(8 * size)
        return
    rng, width = np.random.default_rng(size), 8 * size / count
    yield from (int(width * (i + rng.random())) for i in range(count))


@HOW_MANY
@EACH
def test_in_a_shard(case: Case, count: int | None, tmp_path: Path) -> None:
    bench, disk = Bench(case, tmp_path, ROWS, ROWS), FlippingDisk()
    bench.run()
    job = Session.open(bench.job_dir, disk)
    disk.opened.clear()
    shard = Shard0(job)
    files = {path: path.stat().st_size for path in disk.opened}
    assert max(files.values()) >= 1 << 16
    assert not shard.reported()
    for path, size in files.items():
        flips, silent = list(bits(size, count)), 0
        for bit in flips:
            disk.flip(path, bit)
            if not shard.reported():
                silent += 1
                assert shard.harmless(), f"bit {bit} of {path.name} is served"
        print(f"{path.name}, {size} bytes: {len(flips)} flips, {silent} of them without effect, the others reported")
    job.close()


@HOW_MANY
def test_in_the_ledger(count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flip without effect never lies in a value that was stored: it is in SQLite's own book-keeping, or in free space."""
    monkeypatch.setattr("fct_fast.gallery.job.ledger.BLOCK_ROWS", 2)  # some rows sealed, one loose
    bench = Bench(chosen()[0], tmp_path)
    bench.run()
    path = bench.job_dir / "ledger.sqlite"
    reported, silent = flipped(path, count, content, StoreError)
    values = stored_values(path)
    assert len(values) > 2000
    assert reported > 0
    assert not values & silent
    print(f"{len(values)} bytes are in stored values")


@HOW_MANY
def test_in_the_bundle(count: int | None, tmp_path: Path) -> None:
    """A flip without effect is another spelling of the same JSON number: 1e-5 as 1E-5."""
    bench = Bench(chosen()[0], tmp_path)
    bench.run()
    path = bench.job_dir / "h.safetensors"
    reported, silent = flipped(path, count, read_content, BundleError)
    assert reported > 0
    assert {path.read_bytes()[byte : byte + 1] for byte in silent} <= {b"e"}


def read_content(path: Path) -> Any:
    """All that a bundle says."""
    found = read_bundle(path)
    spaces = {name: space.to_json() for name, space in found.spaces.items()}
    return found.digest, found.spec, spaces, found.scales, found.training


def flipped(path: Path, count: int | None, read: Callable[[Path], Any], error: type[Exception]) -> tuple[int, set[int]]:
    """Read a file with each bit flipped: how many flips raised `error`, and the bytes with those that had no effect.
    Fails where anything else than `error` or the unchanged content comes out."""
    whole, data = read(path), bytearray(path.read_bytes())
    copy, reported, silent = path.with_name("flipped"), 0, list[int]()
    for bit in bits(len(data), count):
        data[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read(copy)
        except error:
            reported += 1
            continue
        assert found == whole, f"bit {bit} of {path.name} is served"
        silent.append(bit // 8)
    print(f"{path.name}, {len(data)} bytes: {reported} flips reported, {len(silent)} without effect")
    return reported, set(silent)
