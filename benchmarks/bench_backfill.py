"""A backfill from store to store beside the kernel's own rate on the same rows, on a real disk.

Each store gets 128 + 128 values a row and the default h (inner 2048, 11.4 MFLOP a row). The share is rows/s of the
whole job (plan, reads, kernel, writes, fsync, ledger, publish) over rows/s of the kernel alone on rows in memory,
measured before and after the job in the same process.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Record
from fct_fast import ForwardTransform, Upgrader
from fct_fast.bench import Timing
from fct_fast.bundle import Bundle
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery import plan_backfill
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.protocol import Shard, Source

OLD, SIDE, NEW = 128, 128, 128
KERNEL_ROWS = 16384

Put = Callable[[Path, np.ndarray, np.ndarray, str], tuple[Mapping[str, str], str]]  # -> source, sink


def transform(inner_dim: int = 2048) -> Bundle:
    torch.manual_seed(0)
    h = ForwardTransform(OLD, NEW, SIDE, inner_dim)
    h.raw(torch.randn(512, OLD), torch.randn(512, SIDE))
    return Bundle.of(h.eval().to_spec(), {})


def put_npy(folder: Path, old: np.ndarray, side: np.ndarray, _: str) -> tuple[Mapping[str, str], str]:
    np.save(folder / "old.npy", old)
    np.save(folder / "side.npy", side)
    return {"old": str(folder / "old.npy"), "side": str(folder / "side.npy")}, str(folder / "new.npy")


def payload(count: int) -> dict[str, Any]:
    import pyarrow as pa

    numbers = np.arange(count)
    return {
        "id": pa.array(numbers),
        "title": pa.array([f"item number {i}" for i in range(count)]),
        "price": pa.array(numbers * 0.25),
        "stock": pa.array((numbers % 100).astype(np.int32)),
    }


def fixed_lists(rows: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def table(old: np.ndarray, side: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.table({**payload(len(old)), "emb": fixed_lists(old), "psi": fixed_lists(side)})


def put_parquet(folder: Path, old: np.ndarray, side: np.ndarray, dtype: str) -> tuple[Mapping[str, str], str]:
    import pyarrow.parquet as pq

    whole = table(old.astype(dtype), side.astype(dtype))
    (folder / "items").mkdir()
    for number in range(8):
        start, stop = len(old) * number // 8, len(old) * (number + 1) // 8
        pq.write_table(whole.slice(start, stop - start), folder / "items" / f"part-{number}.parquet")
    return {"old": f"{folder / 'items'}#emb", "side": "#psi"}, str(folder / "new")


def put_faiss(folder: Path, old: np.ndarray, side: np.ndarray, _: str) -> tuple[Mapping[str, str], str]:
    import faiss

    for name, rows in (("old", old), ("side", side)):
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        faiss.write_index(index, str(folder / f"{name}.faiss"))
    return {"old": str(folder / "old.faiss"), "side": str(folder / "side.faiss")}, str(folder / "new.faiss")


def put_lance(folder: Path, old: np.ndarray, side: np.ndarray, _: str) -> tuple[Mapping[str, str], str]:
    import lance

    lance.write_dataset(table(old, side), str(folder / "items.lance"))
    return {"old": f"{folder / 'items.lance'}#emb", "side": "#psi"}, str(folder / "new.lance")


class NotDurable(FileSystem):
    """A disk that never flushes: what durability costs is the difference to it."""

    def fsync(self, fd: int) -> None:
        pass


def kernel_rate(up: Upgrader, old: np.ndarray, side: np.ndarray) -> float:
    old, side = old[:KERNEL_ROWS], side[:KERNEL_ROWS]
    up(old[:1024], side[:1024])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        up(old, side)
        seconds.append(time.perf_counter() - start)
    return len(old) / statistics.median(seconds)


def read_rate(source: Source, shard_rows: int) -> float:
    start = time.perf_counter()
    for index, first in enumerate(range(0, source.rows, shard_rows)):
        source.read(Shard(index, first, min(first + shard_rows, source.rows)))
    return source.rows / (time.perf_counter() - start)


def job_record(
    name: str, put: Put, rows: int, dtype: str = "float32", *, fs: FileSystem = DISK, shard_rows: Any = "auto"
) -> Record:
    rng = np.random.default_rng(0)
    old, side = (rng.standard_normal((rows, dim), dtype=np.float32) for dim in (OLD, SIDE))
    up = Upgrader(transform(), precision="fp32")
    record = Record(f"backfill, {name}", {"rows": rows, "stored": dtype, "level": up.level, "threads": up.threads})
    with tempfile.TemporaryDirectory(dir=os.environ.get("FCT_BENCH_DIR")) as folder:
        place = Path(folder)
        source, sink = put(place, old, side, dtype)
        os.sync()
        sample = old[:KERNEL_ROWS].copy(), side[:KERNEL_ROWS].copy()
        del old, side
        opened = open_source(source)
        reading = statistics.median(read_rate(opened, 50_000) for _ in range(3))
        opened.close()
        before = kernel_rate(up, *sample)
        start = time.perf_counter()
        report = plan_backfill(source, sink, up, shard_rows=shard_rows, fs=fs).run()
        seconds = time.perf_counter() - start
        after = kernel_rate(up, *sample)
        record.timings = {"whole job": Timing(seconds, seconds, 1)}
        record.figures = {
            "rows/s": rows / seconds,
            "kernel rows/s, before": before,
            "kernel rows/s, after": after,
            "share of the kernel's rate": rows / seconds / statistics.mean([before, after]),
            "reading alone, rows/s": reading,
            "shards": report.shards,
        }
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    return record


def durability_record(inner_dim: int, rows: int, rounds: int = 3) -> Record:
    """The same job with and without fsync, in turn; shards of 256 MiB of input and output."""
    shard_rows = (256 << 20) // (4 * (OLD + SIDE + NEW))
    up = Upgrader(transform(inner_dim), precision="fp32")
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"durable": [], "no fsync": []}
    with tempfile.TemporaryDirectory(dir=os.environ.get("FCT_BENCH_DIR")) as folder:
        arrays = [rng.standard_normal((rows, dim), dtype=np.float32) for dim in (OLD, SIDE)]
        source, sink = put_npy(Path(folder), *arrays, "float32")
        del arrays
        for _ in range(rounds):
            for name, fs in (("durable", DISK), ("no fsync", NotDurable())):
                os.sync()
                start = time.perf_counter()
                plan_backfill(source, sink, up, shard_rows=shard_rows, fs=fs).run()
                seconds[name].append(time.perf_counter() - start)
                Path(sink).unlink()
                Path(sink).with_name("new.space.json").unlink(missing_ok=True)
                shutil.rmtree(f"{sink}.job")
    name = f"backfill, npy, cost of durability, inner {inner_dim}"
    result = Record(name, {"rows": rows, "shard rows": shard_rows, "level": up.level})
    result.timings = {name: Timing(statistics.median(s), min(s), rounds) for name, s in seconds.items()}
    medians = {name: timing.median_s for name, timing in result.timings.items()}
    result.figures = {"rows/s": rows / medians["durable"], "cost": medians["durable"] / medians["no fsync"] - 1}
    return result


def memory_record(rows: int = 1_000_000) -> Record:
    """Peak memory of a job as a process of its own."""
    code = """
import sys
from pathlib import Path
import fct_fast
folder = Path(sys.argv[1])
source = {"old": folder / "old.npy", "side": folder / "side.npy"}
fct_fast.backfill(source, folder / "new.npy", folder / "h.safetensors")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""
    from fct_fast.bundle import write_bundle

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=os.environ.get("FCT_BENCH_DIR")) as folder:
        for name, dim in (("old", OLD), ("side", SIDE)):
            np.save(Path(folder) / f"{name}.npy", rng.standard_normal((rows, dim), dtype=np.float32))
        bundle = transform()
        write_bundle(Path(folder) / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    record = Record("backfill, npy, a process of its own", {"rows": rows})
    record.timings = {"whole process": Timing(seconds, seconds, 1)}
    record.figures = {"peak resident MB": int(done.stdout) / 2**20, "rows/s": rows / seconds}
    return record


def records() -> list[Record]:
    return [
        memory_record(),
        job_record("npy to npy", put_npy, 400_000),
        job_record("Parquet to Parquet, FixedSizeList, 4 more columns", put_parquet, 400_000),
        job_record("Parquet to Parquet, FixedSizeList, 4 more columns", put_parquet, 400_000, "float16"),
        job_record("FAISS Flat to FAISS Flat", put_faiss, 400_000),
        job_record("Lance to Lance, 4 more columns", put_lance, 400_000),
        durability_record(64, 1_000_000),
        durability_record(2048, 200_000, rounds=2),
    ]
