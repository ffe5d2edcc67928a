"""What the gallery tests share: a small h, galleries on disk, a disk that fails on demand."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fct_fast.bundle import Bundle
from fct_fast.fs import FileSystem
from fct_fast.gallery import Progress
from fct_fast.space import SpaceFingerprint
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.upgrader import Upgrader

OLD_DIM, SIDE_DIM, NEW_DIM = 16, 5, 12
Array = np.ndarray[Any, Any]


def small_spec(seed: int = 0, *, side_dim: int = SIDE_DIM, normalize: bool = True) -> TransformSpec:
    rng = np.random.default_rng(seed)

    def layer(out_dim: int, in_dim: int, relu: bool) -> Layer:
        weight = (rng.standard_normal((out_dim, in_dim)) / np.sqrt(in_dim)).astype(np.float32)
        return Layer(weight, (0.1 * rng.standard_normal(out_dim)).astype(np.float32), relu)

    branches = [Branch("old", (layer(32, OLD_DIM, True), layer(24, 32, True)))]
    if side_dim:
        branches.append(Branch("side", (layer(10, side_dim, True), layer(24, 10, True))))
    trunk = (layer(20, 24 * len(branches), True), layer(NEW_DIM, 20, False))
    return TransformSpec(OLD_DIM, side_dim, NEW_DIM, tuple(branches), trunk, normalize=normalize)


def small_bundle(rows: Rows, **options: Any) -> Bundle:
    """An h with the statistics of the spaces that these rows are of."""
    spec = small_spec(**options)
    new = spec.apply_float64(rows.old, rows.side)
    spaces = {
        "old": SpaceFingerprint.measure(rows.old, model_id="old-1"),
        "side": SpaceFingerprint.measure(rows.side, model_id="psi-1"),
        "new": SpaceFingerprint.measure(new.astype(np.float32), model_id="new-1"),
    }
    return Bundle.of(spec, spaces)


@dataclass(frozen=True)
class Rows:
    old: Array
    side: Array
    ids: Array

    def payload(self) -> pa.Table:
        """Columns as users keep them: text with nulls, numbers with NaN, times with a zone."""
        rng = np.random.default_rng(len(self.old))
        count = len(self.old)
        names = [None if i % 7 == 3 else f'item {i}, "{chr(945 + i % 24)}"\n' for i in range(count)]
        price = rng.random(count)
        price[::11] = np.nan
        times = pa.array(rng.integers(0, 1 << 50, count), pa.int64()).cast(pa.timestamp("us", "UTC"))
        columns = {"title": pa.array(names, pa.string()), "price": pa.array(price), "seen": times}
        return pa.table(columns)


def make_rows(count: int, seed: int = 1, dtype: str = "float32") -> Rows:
    rng = np.random.default_rng(seed)
    old = (3 * rng.standard_normal((count, OLD_DIM)) + 0.5).astype(dtype)
    side = rng.standard_normal((count, SIDE_DIM)).astype(dtype)
    return Rows(old, side, rng.permutation(count).astype(np.int64) * 3)


@dataclass(frozen=True)
class Stored:
    """A gallery on disk, and what it holds."""

    rows: Rows
    source: Mapping[str, str]
    up: Upgrader

    @property
    def expected(self) -> Array:
        new: Array = self.up(self.rows.old, self.rows.side)
        return new


def store(folder: Path, count: int = 1000, *, ids: bool = False, threads: int = 1, **options: Any) -> Stored:
    rows = make_rows(count)
    np.save(folder / "old.npy", rows.old)
    np.save(folder / "side.npy", rows.side)
    if ids:
        np.save(folder / "old.ids.npy", rows.ids)
    up = Upgrader(small_bundle(rows, **options), threads=threads)
    return Stored(rows, {"old": str(folder / "old.npy"), "side": str(folder / "side.npy")}, up)


def load_gallery(sink: Path) -> Array:
    """The rows of a sink, read by numpy alone."""
    files = [sink] if sink.suffix == ".npy" else sorted(p for p in sink.glob("*.npy") if ".ids." not in p.name)
    return np.concatenate([np.load(file) for file in files])


def tree_digest(*paths: Path) -> str:
    """Names and bytes of some files and folders, with all they hold."""
    sha = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                sha.update(os.fsencode(file.relative_to(path.parent)) + b"\0" + file.read_bytes())
    return sha.hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Temporary and unfinished files, which no ended job may leave."""
    return sorted(p.name for p in folder.rglob("*") if p.name.endswith(".tmp") or ".partial-" in p.name)


class Stopped(Exception):
    """Raised by `stop_after`."""


def stop_after(shards: int) -> Callable[[Progress], None]:
    """A progress callback that ends a job once so many shards are committed (the next one may be on its way)."""

    def stop(progress: Progress) -> None:
        if progress.shards >= shards:
            raise Stopped

    return stop


class FaultyDisk(FileSystem):
    """Counts calls that change the disk, by name, and fails the n-th one; from then on all of them if `for_good`."""

    def __init__(self, fail_at: int = 0, code: int = errno.EIO, *, for_good: bool = False, only: str = "") -> None:
        self.fail_at, self.code, self.for_good, self.only = fail_at, code, for_good, only
        self.calls = 0
        self.log: list[str] = []

    def _count(self, name: str) -> None:
        if self.only and name != self.only:
            return
        self.calls += 1
        self.log.append(name)
        if self.calls == self.fail_at or (self.for_good and self.fail_at and self.calls > self.fail_at):
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, flags: int) -> int:
        if flags & (os.O_CREAT | os.O_DIRECTORY):
            self._count("open")
        return super().open(path, flags)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._count("pwrite")
        return super().pwrite(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._count("fsync")
        super().fsync(fd)

    def replace(self, source: Path, target: Path) -> None:
        self._count("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._count("mkdir")
        super().mkdir(path)
