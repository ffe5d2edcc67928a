"""Progress of a long verb, on stderr: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from fct_fast.report.text import amount, span

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Meter"]

LINE_SECONDS = 5.0  # between plain lines


class Meter:
    """Says how far a job over `total` rows is: rows/s, GB/s (of `row_bytes` read and written a row) and time left.

    `update` takes the rows that are done; `inherited` of them were done before this run and do not count as speed.
    """

    def __init__(self, what: str, total: int, *, unit: str = "rows", row_bytes: int = 0) -> None:
        self._what, self._total, self._unit, self._row_bytes = what, total, unit, row_bytes
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[pace]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total, pace="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, what: str, done: int, total: int) -> None:
        """Stages of unequal length: name the one that begins."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{self._what}: {what}", completed=done, total=total)
        else:
            print(f"{self._what}: {done + 1} of {total}, {what}", file=sys.stderr, flush=True)

    def update(self, done: int, *, inherited: int = 0) -> None:
        now = time.monotonic()
        pace = self._pace(done, done - inherited, now - self._start)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, pace=pace)
        elif done >= self._total or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            counted = f"{amount(done)} of {amount(self._total)} {self._unit}"
            print(f"{self._what}: {counted}, {pace}", file=sys.stderr, flush=True)

    def _pace(self, done: int, fresh: int, seconds: float) -> str:
        rate = fresh / seconds if seconds > 0 else 0.0
        parts = [f"{amount(rate) if rate >= 10 else f'{rate:.1f}'} {self._unit}/s"]
        if self._row_bytes:
            parts.append(f"{rate * self._row_bytes / 1e9:.2f} GB/s")
        if done < self._total and rate > 0:
            parts.append(f"{span((self._total - done) / rate)} left")
        return ", ".join(parts)
