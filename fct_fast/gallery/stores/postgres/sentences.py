"""What PostgreSQL and its client report, as StoreErrors with one sentence: what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from fct_fast.errors import StoreError

__all__ = ["sentences"]

_RESUME = "run the same command again once that is mended; what was committed stays"

_HINTS = {
    "28P01": "set the password where the client looks for it, PGPASSWORD or ~/.pgpass",
    "28000": "check the user of the place and the server's pg_hba.conf",
    "3D000": "check the name of the database",
    "42501": "have the owner grant that to the user of the place",
    "42P01": "check the name of the table",
    "42703": "check the names of the columns",
    "53100": "free some space on the server and run the same command again; what was committed stays",
    "53300": "close some connections and run the same command again",
    "55P03": "other sessions use the table; run the same command again when they are done",
    "40P01": "other sessions use the table; run the same command again when they are done",
    "40001": "run the same command again; on a standby, raise max_standby_streaming_delay",
    "57014": "run the same command again",
    "25006": "the server takes no writes, name the primary",
    "23505": "another row has that key; ids must be unique",
}
_HINTS_OF_CLASS = {  # the first two characters of a SQLSTATE
    "08": _RESUME,
    "53": _RESUME,
    "54": "some rows are too large to be read together; leave the payload behind",
    "57": _RESUME,
    "58": _RESUME,
    "XX": "the server reports a fault of its own; check its log before running again",
    "22": "the table's types do not take such a value; change its column, or leave the payload behind",
    "23": "the rows must obey the constraints of the table; correct the rows, or drop the constraint",
}


@contextlib.contextmanager
def sentences(where: str) -> Iterator[None]:
    """Turn every psycopg.Error within into a StoreError that names `where`."""
    try:
        yield
    except psycopg.Error as error:
        raise _failure(error, where) from error


def _failure(error: psycopg.Error, where: str) -> StoreError:
    state = error.sqlstate or ""
    reason = (error.diag.message_primary or str(error).strip() or type(error).__name__).splitlines()[0]
    if not state and isinstance(error, psycopg.OperationalError):  # no server, or gone in the middle of a talk
        last = str(error).strip().splitlines()[-1].strip() if str(error).strip() else reason
        hint = _HINTS["28P01"] if "password" in str(error) else f"check that the server runs, and {_RESUME}"
        return StoreError(f"{where} cannot be reached: {last}; {hint}")
    hint = _HINTS.get(state) or _HINTS_OF_CLASS.get(state[:2], "")
    return StoreError(f"{where}: {reason}{'; ' + hint if hint else ''}")
