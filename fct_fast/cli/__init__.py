"""The command `fct-fast`: one file a verb. Nothing else in the package prints or exits."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    try:
        from fct_fast.cli.app import app

        app()
        sys.exit(0)
    except KeyboardInterrupt:  # before a verb began, or after it ended; in between the program says so itself
        print("fct-fast: interrupted", file=sys.stderr)
        sys.exit(130)
