"""The program: its verbs, and how each of them ends."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fct_fast import __version__
from fct_fast.cli.errors import ERROR, INTERRUPTED, USAGE, complain, explain

__all__ = ["app"]

_DEBUG = "--debug"

# Verb -> the module that holds it, in the order of the help page.
_VERBS = {
    "demo": "demo",
    "train": "train",
    "sample": "sample",
    "fit": "fit",
    "import": "import_checkpoint",
    "evaluate": "evaluate",
    "plan": "plan",
    "backfill": "backfill",
    "status": "status",
    "verify": "verify",
    "cutover": "cutover",
    "rollback": "rollback",
    "report": "report",
    "search": "search",
    "bench": "bench",
    "doctor": "doctor",
}


class _Program(TyperGroup):
    """Ends the process with the exit codes of `fct_fast.cli.errors`, and says why in one sentence."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        words, debug = _without_debug(sys.argv[1:] if args is None else args)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(words, "fct-fast", standalone_mode=False)
                sys.stdout.flush()
            except typer.TyperException as error:
                context = getattr(error, "ctx", None)
                complain(f"{error.format_message()} (see `{context.command_path if context else 'fct-fast'} --help`)")
                code = USAGE
            except typer.Abort:
                complain("nothing was done")
                code = ERROR
            except BrokenPipeError:  # whoever read the output has seen enough
                _forget_output()
                code = ERROR
            except Exception as error:
                sentence, code = explain(error)
                complain(sentence, error=error if debug else None)
                _forget_output()
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """--debug may stand anywhere before a bare `--`."""
    end = words.index("--") if "--" in words else len(words)
    before = [word for word in words[:end] if word != _DEBUG]
    return [*before, *words[end:]], len(before) < end


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(f"warning: {message}")


def _forget_output() -> None:
    """Drop what standard output still buffers where it cannot be written (a full disk, a closed pipe): otherwise the
    interpreter tries again on its way out, and complains in its own words."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fct-fast {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Program,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Print the traceback of an error; goes with every verb.")] = False,
) -> None:
    """Upgrade a gallery of stored embeddings to a new model's space, without reading raw data again."""
    del version, debug  # dealt with before
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


for _name, _module in _VERBS.items():
    app.command(_name)(importlib.import_module(f"fct_fast.cli.{_module}").run)
