"""A quick proof that the compiled kernels compute what they should on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import DeviceError
from fct_fast.spec import Branch, Layer, TransformSpec

__all__ = ["self_test"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Relative error to float64, norm-wise; a single row may have five times that.
ALLOWED = {"fp32": 2e-6, "bf16": 1e-2, "int8": 3e-2}
ROW_FACTOR = 5
ROWS = 257  # not a multiple of any block


def self_test(levels: Sequence[str]) -> dict[str, Any]:
    """{"allowed": {precision: error}, "error": {precision: {level: error of the upgrade kernel}}, "search": "exact"}.

    Raises DeviceError where a kernel is wrong.
    """
    from fct_fast.kernels import native

    rng = np.random.default_rng(0)
    spec = _transform(rng)
    old = rng.standard_normal((ROWS, spec.old_dim), np.float32)
    side = rng.standard_normal((ROWS, spec.side_dim), np.float32)
    true = spec.apply_float64(old, side)
    usable = {"fp32": levels, "bf16": [level for level in levels if native().has_bf16(level)], "int8": levels}
    errors = {
        precision: {level: _measured(spec, old, side, true, precision, level) for level in usable[precision]}
        for precision in usable
    }
    _check_search(np.rint(40 * true).astype(np.float32))
    return {"allowed": ALLOWED, "error": errors, "search": "exact"}


def _measured(spec: TransformSpec, old: F32, side: F32, true: F64, precision: str, level: str) -> float:
    from fct_fast.upgrader import Upgrader

    calibration = (old, side) if precision == "int8" else None
    new = Upgrader(spec, precision=precision, level=level, calibration=calibration)(old, side)
    row_errors = np.linalg.norm(new - true, axis=1)  # of unit rows, so relative
    error = float(np.linalg.norm(row_errors) / np.sqrt(len(true)))
    if not (error <= ALLOWED[precision] and row_errors.max() <= ROW_FACTOR * ALLOWED[precision]):
        raise DeviceError(
            f"the {level} upgrade kernel is wrong on this machine (relative error {error:.1e} in {precision}); "
            f"force another level with FCT_FAST_CPU_LEVEL and report this"
        )
    return error


def _transform(rng: np.random.Generator) -> TransformSpec:
    """The shape of the paper's h, with widths that leave a tail in every vector register."""

    def layer(out_dim: int, in_dim: int, relu: bool = True) -> Layer:
        weight = rng.standard_normal((out_dim, in_dim), np.float32) * np.float32(np.sqrt(2 / in_dim))
        return Layer(weight, rng.standard_normal(out_dim, np.float32) * np.float32(0.1), relu)

    branches = (
        Branch("old", (layer(38, 19), layer(46, 38))),
        Branch("side", (layer(26, 13), layer(46, 26))),
    )
    trunk = (layer(67, 92), layer(67, 67), layer(23, 67, relu=False))
    return TransformSpec(old_dim=19, side_dim=13, new_dim=23, branches=branches, trunk=trunk)


def _check_search(rows: F32) -> None:
    """Small whole numbers make every score exact, so numpy must find the same neighbours with the same scores."""
    from fct_fast.search import topk

    scores = rows[:9] @ rows.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    found, ids = topk(rows[:9], rows, 5, metric="ip")
    if not (np.array_equal(ids, order) and np.array_equal(found, np.take_along_axis(scores, order, axis=1))):
        raise DeviceError(
            "the search kernel is wrong on this machine; force another level with FCT_FAST_CPU_LEVEL and report this"
        )
