"""What verbs print: results on stdout, as tables for people or as one JSON object; questions on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fct_fast.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ask", "may_overwrite", "print_facts", "print_json", "print_line", "print_table"]


def print_json(document: Mapping[str, Any]) -> None:
    """The one JSON object of a verb; arrays become lists, paths text, and what is no finite number null."""
    print(json.dumps(_plain(document), allow_nan=False))


def print_line(text: str = "") -> None:
    print(text)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Name and value, one pair a line; long values are never cut."""
    rows = [(name, str(value)) for name, value in facts]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """A table; the first `left` columns are text, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=i == 0 or i >= left)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _console().print(table)


def ask(question: str, *, yes: bool) -> None:
    """Ask on a terminal before something is done; raises typer.Abort at "no". Scripts are not asked: they said it."""
    if not yes and _on_terminal():
        _confirm(question)


def may_overwrite(path: Path, *, yes: bool) -> None:
    """Make sure that `path` is free or may be replaced: asks on a terminal, elsewhere raises ConfigError."""
    if yes or not path.exists():
        return
    if not _on_terminal():
        raise ConfigError(f"{path} exists; choose another place, or pass --yes to replace it")
    _confirm(f"{path} exists. Replace it?")


def _confirm(question: str) -> None:
    """On stderr, since typer's own question leaves a trace on stdout."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Abort


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _console() -> Console:
    from rich.console import Console

    narrow = Console(file=sys.stdout)
    return narrow if narrow.is_terminal else Console(file=sys.stdout, width=200)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        floats = value.dtype.kind == "f"
        value = value.tolist()
        if not floats and isinstance(value, list):
            return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
