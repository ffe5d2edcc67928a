"""`fct-fast bench`: how fast this machine upgrades and searches, beside torch and faiss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fct_fast.cli.options import Device, Json, Threads, counts
from fct_fast.cli.output import print_facts, print_json, print_line, print_table
from fct_fast.report.text import amount, percent

if TYPE_CHECKING:
    from fct_fast.bench import SearchSpeed, UpgradeSpeed

__all__ = ["run"]

_COUNTS = {"parser": counts, "metavar": "N,N,..."}


def run(
    bundle: Annotated[
        Path | None, typer.Option(help="Your h.safetensors; by default an h of random weights, 128 + 128 -> 128.")
    ] = None,
    rows: Annotated[Any, typer.Option(help="Rows of one upgrade, a list.", **_COUNTS)] = "1,64,16384",
    queries: Annotated[Any, typer.Option(help="Queries of one search, a list.", **_COUNTS)] = "1,64",
    gallery: Annotated[int, typer.Option(min=0, help="Rows that are searched; 0 leaves the search out.")] = 200_000,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours a query.")] = 10,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure the upgrade in every precision that this machine has, and exact search, beside torch and faiss.

    Contenders take turns in one process; times are medians from host memory to host memory. Search is measured on the
    CPU. Takes about a minute, on a machine that does nothing else.
    """
    from fct_fast.bench import measure_search, measure_upgrade, random_transform, usable_precisions
    from fct_fast.bundle import read_bundle
    from fct_fast.cli.progress import Meter
    from fct_fast.kernels import capabilities, usable_threads

    spec = random_transform() if bundle is None else read_bundle(bundle).spec
    machine = capabilities()
    h = {
        "old_dim": spec.old_dim,
        "side_dim": spec.side_dim,
        "new_dim": spec.new_dim,
        "flops_per_row": spec.flops_per_row,
        "bundle": bundle,
    }
    document: dict[str, Any] = {
        "h": h,
        "device": device,
        "level": machine["cpu_level"],
        "threads": usable_threads(threads),
    }
    precisions = usable_precisions(device)
    steps = len(precisions) + bool(gallery)
    upgrades: list[UpgradeSpeed] = []
    searches: list[SearchSpeed] = []
    with Meter("bench", steps) as meter:
        for i, precision in enumerate(precisions):
            meter.at(f"upgrade in {precision}", i, steps)
            upgrades += measure_upgrade(spec, precision, rows, device=device, threads=threads)
        if gallery:
            meter.at("search", steps - 1, steps)
            searches = measure_search(queries, gallery, spec.new_dim, k, threads=threads)
    if as_json:
        print_json(document | {"upgrade": [_upgrade(x) for x in upgrades], "search": [_search(x) for x in searches]})
        return
    print_facts(
        [
            ("h", f"{spec.old_dim} + {spec.side_dim} -> {spec.new_dim}, {spec.flops_per_row / 1e6:.3g} MFLOP a row"),
            ("machine", f"{machine['machine']}, level {document['level']}, {document['threads']} threads"),
        ]
    )
    print_line()
    print_table(
        ("upgrade", "rows", "time", "rows/s", "GFLOP/s", "of the peak", "torch", "times torch"),
        map(_upgrade_row, upgrades),
    )
    if searches:
        print_line()
        print_table(
            ("search", "queries", "time", "queries/s", *(f"times {name}" for name in searches[0].peers)),
            map(_search_row, searches),
        )
        print_line(f"exact search of {amount(gallery)} rows of {spec.new_dim}, k = {k}; int8 gives the answer of fp32")


def _upgrade(speed: UpgradeSpeed) -> dict[str, Any]:
    return {
        "precision": speed.precision,
        "rows": speed.rows,
        "seconds": speed.seconds,
        "rows_per_s": speed.rows_per_s,
        "gflop_per_s": speed.flops_per_s / 1e9,
        "share_of_register_peak": speed.peak_share,
        "torch_dtype": speed.torch_dtype,
        "torch_seconds": speed.torch_seconds,
        "times_torch": speed.times_torch,
    }


def _upgrade_row(speed: UpgradeSpeed) -> tuple[str, ...]:
    return (
        speed.precision,
        amount(speed.rows),
        _time(speed.seconds),
        amount(speed.rows_per_s),
        f"{speed.flops_per_s / 1e9:.3g}",
        "-" if speed.peak_share is None else percent(speed.peak_share, 0),
        f"{_time(speed.torch_seconds)} ({speed.torch_dtype})",
        f"{speed.times_torch:.2f}",
    )


def _search(speed: SearchSpeed) -> dict[str, Any]:
    return {
        "precision": speed.precision,
        "queries": speed.queries,
        "rows": speed.rows,
        "dim": speed.dim,
        "k": speed.k,
        "seconds": speed.seconds,
        "peers_seconds": speed.peers,
    }


def _search_row(speed: SearchSpeed) -> tuple[str, ...]:
    times = (f"{seconds / speed.seconds:.2f}" for seconds in speed.peers.values())
    return speed.precision, amount(speed.queries), _time(speed.seconds), amount(speed.queries_per_s), *times


def _time(seconds: float) -> str:
    """Short calls keep three digits: 0.000412 -> '0.412 ms'."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
