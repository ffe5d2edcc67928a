"""Payload: the user's other columns, compared after they travelled from one store to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["first_difference"]


def first_difference(expected: pa.Table | None, found: pa.Table | None) -> str | None:
    """The name of the first column of `expected` whose values `found` does not have, None where all agree.

    A column that another store keeps in another type (a dictionary as plain text, say) is the same where its values
    are. NaN equals NaN, as nobody changed it.
    """
    if expected is None:
        return None
    for name in expected.column_names:
        if found is None or name not in found.column_names or not _same(expected.column(name), found.column(name)):
            return str(name)
    return None


def _same(expected: pa.ChunkedArray, found: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    if found.type != expected.type:
        if pa.types.is_dictionary(expected.type):
            expected = expected.cast(expected.type.value_type)
        try:
            found = found.cast(expected.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return False
    if expected.equals(found):
        return True
    # Arrow holds NaN for unequal to itself; text of the values does not.
    return len(expected) == len(found) and repr(expected.to_pylist()) == repr(found.to_pylist())
