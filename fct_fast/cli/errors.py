"""What a failure looks like on the command line: one sentence on stderr, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final

from fct_fast.errors import ConfigError, FctError, VerificationError

__all__ = ["ERROR", "INTERRUPTED", "USAGE", "VERIFICATION_FAILED", "complain", "explain", "one_line"]

ERROR: Final = 1
USAGE: Final = 2
VERIFICATION_FAILED: Final = 3
INTERRUPTED: Final = 130


def explain(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code of a failure."""
    if isinstance(error, VerificationError):
        return str(error), VERIFICATION_FAILED
    if isinstance(error, ConfigError):
        return str(error), USAGE
    if isinstance(error, FctError):
        return str(error), ERROR
    if isinstance(error, MemoryError):
        said = str(error)
        return f"out of memory{f' ({said})' if said else ''}; give fewer rows at a time, or use a larger machine", ERROR
    if isinstance(error, OSError):
        return _of_the_system(error), ERROR
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("fct_fast"):
        return f"the package {error.name!r} is missing; install it with `pip install fct-fast` and try again", ERROR
    return f"unexpected {type(error).__name__}: {str(error)[:300]}; run again with --debug to see where", ERROR


def complain(sentence: str, *, error: BaseException | None = None) -> None:
    """Print one sentence on stderr; with `error` its traceback first."""
    if error is not None:
        traceback.print_exception(error, file=sys.stderr)
    print(f"fct-fast: {one_line(sentence)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which a hostile file name may hold."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _of_the_system(error: OSError) -> str:
    reason = error.strerror or str(error)
    where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return f"{reason[:1].lower()}{reason[1:]}{where}; check the path, its permissions and the free space"
