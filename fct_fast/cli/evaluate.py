"""`fct-fast evaluate`: CMC and mAP of stored embeddings."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fct_fast.cli.options import Device, Json, Metric, Threads, counts
from fct_fast.cli.output import print_facts, print_json
from fct_fast.report.text import amount, percent, span

__all__ = ["run"]


def run(
    queries: Annotated[Path, typer.Option(help="Query embeddings, .npy [queries, dim].")],
    query_labels: Annotated[Path, typer.Option(help="Their labels, .npy [queries].")],
    gallery: Annotated[
        Path | None, typer.Option(help="Gallery, .npy file or folder of them; by default the queries themselves.")
    ] = None,
    gallery_labels: Annotated[
        Path | None,
        typer.Option(help="Its labels, .npy [rows]. Without them, query i is row i of the gallery and is left out."),
    ] = None,
    metric: Metric = "cosine",
    k: Annotated[Any, typer.Option("--k", parser=counts, metavar="K,K", help="Depths of CMC@k.")] = "1,5",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Ask only the first N queries.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure retrieval exactly: CMC@k and mAP over the full ranking."""
    from fct_fast.cli.arrays import read_labels, read_rows
    from fct_fast.evaluation import evaluate

    asked, asked_labels = read_rows(queries, limit), read_labels(query_labels)
    rows = read_rows(gallery if gallery is not None else queries)
    row_labels = asked_labels if gallery_labels is None else read_labels(gallery_labels)
    start = time.perf_counter()
    result = evaluate(
        asked,
        rows,
        asked_labels[:limit],
        row_labels,
        metric=metric,
        exclude_self=gallery_labels is None,
        k=k,
        threads=threads,
        device=device,
    )
    seconds = time.perf_counter() - start
    if as_json:
        print_json(
            {
                "cmc": {str(depth): share for depth, share in result.cmc.items()},
                "map": result.map,
                "queries": result.queries,
                "skipped": result.skipped,
                "rows": len(rows),
                "metric": metric,
                "seconds": seconds,
            }
        )
        return
    facts: list[tuple[str, object]] = [(f"CMC@{depth}", percent(share, 2)) for depth, share in result.cmc.items()]
    skipped = f", {amount(result.skipped)} skipped (no other row has their label)" if result.skipped else ""
    ranked = "query i is row i, left out" if gallery_labels is None else "all of them ranked"
    print_facts(
        [
            *facts,
            ("mAP", percent(result.map, 2)),
            ("queries", f"{amount(result.queries)}{skipped}"),
            ("gallery", f"{amount(len(rows))} rows, {ranked}"),
            ("time", span(seconds)),
        ]
    )
