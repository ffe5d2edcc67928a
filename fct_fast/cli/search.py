"""`fct-fast search`: the nearest rows of a gallery, or of one that is upgraded on the fly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fct_fast.cli.options import Device, Json, Metric, MetricName, Overwrite, Threads
from fct_fast.cli.output import may_overwrite, print_json, print_line
from fct_fast.report.text import amount, span

if TYPE_CHECKING:
    from fct_fast.cli.arrays import Array

__all__ = ["run"]

SHOWN = 10  # queries that are printed for people


def run(
    queries: Annotated[Path, typer.Option(help="Query embeddings of the space that is searched, .npy [queries, dim].")],
    gallery: Annotated[Path | None, typer.Option(help="What is searched, .npy file or folder of them.")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Or: search --old (and --side) as this h.safetensors upgrades them, keeping nothing."),
    ] = None,
    old: Annotated[Path | None, typer.Option(help="Old embeddings for --bundle.")] = None,
    side: Annotated[Path | None, typer.Option(help="Side-information for --bundle, where its h needs it.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours a query.")] = 10,
    metric: Metric = "cosine",
    out: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Write ids and scores to these two .npy files.", metavar="IDS SCORES"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Ask only the first N queries.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    yes: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the k nearest rows of each query, exactly. Rows go by the gallery's ids (x.ids.npy), else by number."""
    from fct_fast.cli.arrays import read_ids, read_rows, write_array

    if (
        (gallery is None) == (bundle is None)
        or (bundle is None) != (old is None)
        or (bundle is None and side is not None)
    ):
        raise typer.BadParameter("give either --gallery, or --bundle with --old (and --side)")
    for path in out or ():
        may_overwrite(path, yes=yes)
    asked = read_rows(queries, limit)
    start = time.perf_counter()
    if gallery is not None:
        rows, (scores, ids) = _stored(asked, gallery, k, metric, threads, device)
    else:
        assert bundle is not None
        assert old is not None
        rows, (scores, ids) = _upgraded(asked, bundle, old, side, k, metric, threads, device)
    seconds = time.perf_counter() - start
    names = read_ids(gallery or old, rows)  # type: ignore[arg-type]
    if names is not None:
        ids = names[ids]
    if out is not None:
        write_array(out[0], ids)
        write_array(out[1], scores)
    document: dict[str, Any] = {"queries": len(asked), "rows": rows, "k": k, "metric": metric, "seconds": seconds}
    if as_json:
        found = {"ids": ids, "scores": scores} if out is None else {"out": list(out)}
        print_json(document | found)
        return
    for i in range(min(SHOWN, len(asked))):
        nearest = "  ".join(
            f"{row} ({score:.4g})" for row, score in zip(ids[i].tolist(), scores[i].tolist(), strict=True)
        )
        print_line(f"query {i}: {nearest}")
    if len(asked) > SHOWN:
        print_line(f"... and {amount(len(asked) - SHOWN)} more queries; --out or --json gives all")
    print_line(f"{amount(len(asked))} queries over {amount(rows)} rows in {span(seconds)}")


def _stored(
    queries: Array, gallery: Path, k: int, metric: MetricName, threads: int | None, device: str
) -> tuple[int, tuple[Array, Array]]:
    from fct_fast.cli.arrays import read_rows
    from fct_fast.search import topk

    rows = read_rows(gallery)
    return len(rows), topk(queries, rows, k, metric=metric, threads=threads, device=device)


def _upgraded(
    queries: Array,
    bundle: Path,
    old: Path,
    side: Path | None,
    k: int,
    metric: MetricName,
    threads: int | None,
    device: str,
) -> tuple[int, tuple[Array, Array]]:
    from fct_fast.cli.arrays import read_rows
    from fct_fast.upgrader import Upgrader

    up = Upgrader(bundle, device=device, threads=threads)
    rows = read_rows(old)
    return len(rows), up.search(queries, rows, None if side is None else read_rows(side), k=k, metric=metric)
