"""What the upgrade kernel says of each row (csrc/core/upgrade.hpp, RowStatus)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fct_fast.errors import NonFiniteError

__all__ = ["NONFINITE_INPUT", "OK", "OVERFLOW", "ZERO_NORM", "check_status"]

OK, NONFINITE_INPUT, ZERO_NORM, OVERFLOW = range(4)


def check_status(status: npt.NDArray[np.uint8], first_row: int = 0) -> None:
    """Raises NonFiniteError naming the first row with NaN or Inf; `first_row` is the number of status[0]."""
    if not status.any():
        return
    bad = np.flatnonzero((status == NONFINITE_INPUT) | (status == OVERFLOW))
    if bad.size == 0:
        return
    row = first_row + int(bad[0])
    if status[bad[0]] == OVERFLOW:
        raise NonFiniteError(
            f"row {row} is finite but its upgraded embedding overflows the output's dtype; "
            f'check the scale of the input, or pass nonfinite="flag" to get a zero row'
        )
    raise NonFiniteError(
        f'row {row} of old or side holds NaN or Inf; clean it, or pass nonfinite="flag" to get a zero row'
    )
