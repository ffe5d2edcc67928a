"""`fct-fast train`: the experiment, over several seeds, on images that ship with the package."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fct_fast.cli.options import Json
from fct_fast.cli.output import print_json, print_line, print_table
from fct_fast.report.text import percent, span

if TYPE_CHECKING:
    from fct_fast.experiment import ExperimentRecipe

__all__ = ["run"]

_SHOWN = ("old", "ridge", "ridge_side", "side", "h", "h_side", "bct", "l2", "new")


def run(
    what: Annotated[Literal["glyphs"], typer.Argument(help="The data set.", metavar="glyphs")],
    out: Annotated[Path, typer.Option(help="Folder for the stages, results.json and results.md.")],
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Seeds 0 to N - 1.")] = 5,
    results: Annotated[Path | None, typer.Option(help="Write the page here as well.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small recipe, to see that everything runs.")] = False,
    recipe: Annotated[Path | None, typer.Option(help="A recipe of your own, YAML.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stages at a time, one thread each; by default all cores.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the experiment: all models, maps, controls and curves, over several seeds, into one page of results.

    What a stage found is kept in --out: the same command goes on where an earlier one was stopped.
    """
    from fct_fast.errors import ConfigError
    from fct_fast.experiment import load_recipe, results_page, run_stages, summarise
    from fct_fast.fs import DISK

    if quick and recipe is not None:
        raise ConfigError("--quick is a recipe of its own; leave it or --recipe out")
    options = load_recipe(recipe if recipe is not None else "quick" if quick else what)
    DISK.make_folder(out)
    experiment = run_stages(options, seeds=tuple(range(seeds)), out=out, jobs=jobs, on_stage=_Progress())
    document = summarise(experiment) | _facts(what, seeds, quick, options if recipe is not None else None)
    page = results_page(document).encode()
    DISK.write_atomic(out / "results.json", json.dumps(document, indent=1, allow_nan=False).encode())
    DISK.write_atomic(out / "results.md", page)
    if results is not None:
        DISK.write_atomic(results, page)
    place = out / "results.md" if results is None else results
    if as_json:
        print_json({"rows": document["rows"], "results": place, "seconds": experiment.seconds})
        return
    _show(document, place, experiment.seconds, experiment.reused)


def _show(document: dict[str, Any], place: Path, seconds: float, reused: int) -> None:
    from fct_fast.experiment import claims

    rows = document["rows"]
    print_table(
        ("row", "CMC@1", "CMC@5", "mAP", "gap closed"),
        (
            (name, *(percent(rows[name][metric]["mean"]) for metric in ("cmc1", "cmc5", "map", "gap")))
            for name in _SHOWN
        ),
    )
    print_line()
    for sentence in claims(document):
        print_line(sentence)
    found = f", {reused} stages were there" if reused else ""
    print_line(f"{span(seconds)}{found}. Results: {place}")


def _facts(what: str, seeds: int, quick: bool, own: ExperimentRecipe | None) -> dict[str, Any]:
    """What the page says of the run; paths are the reader's to choose."""
    from importlib import metadata

    from fct_fast import __version__

    words = ["fct-fast", "train", what, "--seeds", str(seeds), *(["--quick"] if quick else [])]
    words += ["--recipe", "recipe.yaml"] if own is not None else []
    versions = {"fct-fast": __version__} | {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"command": shlex.join([*words, "--out", "DIR"]), "commit": _commit(), "versions": versions}


def _commit() -> str | None:
    """Of the checkout that this file is part of, None where it is of none; marked where files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10, env=environment
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return None


class _Progress:
    """A line on stderr for each stage that is done."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int, part: int | str, name: str, seconds: float) -> None:
        self._first = done - 1 if self._first is None else self._first
        elapsed = time.monotonic() - self._start
        where = f"seed {part}" if isinstance(part, int) else part
        print(
            f"train: {done}/{total} {where}, {name}, {span(seconds)} ({span(elapsed)} so far)",
            file=sys.stderr,
            flush=True,
        )
