"""`fct-fast demo`: the whole of Forward Compatible Training, on images that ship with the package."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from fct_fast.cli.options import Json, Seed, Threads
from fct_fast.cli.output import print_json, print_line, print_table
from fct_fast.report.text import amount, percent, span

if TYPE_CHECKING:
    from rich.progress import Progress

    from fct_fast.demo.result import DemoResult

__all__ = ["run"]


def run(
    out: Annotated[Path, typer.Option(help="Folder for report.html, the bundle and the gallery.")] = Path(
        "fct-fast-demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Handwritten digits instead of glyphs: seconds instead of minutes.")
    ] = False,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train two models, fit h between them, upgrade a gallery, and show what it is worth. No download, no GPU."""
    path = out / "report.html"
    if threads is not None:
        _use_threads(threads)
    with _Stages() as stages:
        from fct_fast.demo.result import ROWS
        from fct_fast.demo.run import run_demo
        from fct_fast.fs import DISK
        from fct_fast.report.demo import demo_page

        result = run_demo(seed=seed, quick=quick, out=out, progress=stages.at)
        DISK.write_atomic(path, demo_page(result, ROWS).encode())
    if as_json:
        print_json(result.to_json(path))
    else:
        _show(result, path)


def _show(result: DemoResult, path: Path) -> None:
    from fct_fast.demo.result import ROWS
    from fct_fast.report.demo import reading

    columns = ("row", "what is searched", "CMC@1", "CMC@5", "mAP", "gap closed")
    print_table(
        columns,
        (
            (
                name,
                what,
                percent(result.rows[name].cmc1),
                percent(result.rows[name].cmc5),
                percent(result.rows[name].map),
                percent(result.gap_closed_by(name), 0),
            )
            for name, (what, _) in ROWS.items()
        ),
        left=2,
    )
    print_line()
    for sentence in reading(result):
        print_line(sentence)
    print_line(
        f"Upgrade of {amount(result.gallery_rows)} rows by the same h on {result.threads} threads: "
        f"kernel {amount(result.kernel_rows_per_s)} rows/s (level {result.level}), "
        f"torch {amount(result.torch_rows_per_s)} rows/s."
    )
    print_line(f"{span(result.seconds)}, seed {result.seed}. Report: {path}")


def _use_threads(threads: int) -> None:
    """Bind this process to some of its cores, which bounds torch and the kernels alike."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class _Stages:
    """The demo's progress on stderr: a bar on a terminal, elsewhere a line for each stage that is done."""

    def __enter__(self) -> _Stages:
        self._stage, self._start = "", time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description:<28}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("start", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line()

    def at(self, stage: str, share: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=stage, completed=share)
        elif stage != self._stage:
            self._line()
            self._stage, self._start = stage, time.monotonic()

    def _line(self) -> None:
        if self._stage:
            print(f"demo: {self._stage}, {span(time.monotonic() - self._start)}", file=sys.stderr, flush=True)
