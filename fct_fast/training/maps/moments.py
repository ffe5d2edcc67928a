"""Moments: means and covariances of paired rows in float64, all that a closed-form map needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fct_fast.training.pairs import CHUNK_ROWS, Pairs, chunks

__all__ = ["F64", "Moments"]

F64: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of x, the concatenation of old and side, and y, which is new; each array times its `scale`, 1 / RMS by default.

    x_mean [x_dim], y_mean [y_dim]; covariances over count rows: xx [x_dim, x_dim], xy [x_dim, y_dim], and where asked
    for yy [y_dim, y_dim]. dims and scale have an entry for each array. Dividing by the RMS makes the maps scale-free
    and lets old and side weigh the same per element, whatever units they come in.
    """

    count: int
    dims: dict[str, int]
    scale: dict[str, float]
    x_mean: F64
    y_mean: F64
    xx: F64
    xy: F64
    yy: F64 | None

    @classmethod
    def of(cls, pairs: Pairs, rows: Tensor, *, of_targets: bool = False, rms_units: bool = True) -> Moments:
        """Over `rows` and all views, in chunks, on the device of the pairs. of_targets: yy too. rms_units: False leaves
        the arrays as they are."""
        scale = {name: 1.0 for name, _ in pairs.named()}
        if rms_units:
            scale = {name: 1 / (rms or 1.0) for name, rms in pairs.rms(rows).items()}
        return cls._in_units(pairs, rows, range(pairs.views), scale, of_targets)

    def held_out(self, pairs: Pairs, rows: Tensor) -> Moments:
        """Those of other rows, view 0, in the units of these, yy included: what `squared_error` reads."""
        return self._in_units(pairs, rows, range(1), self.scale, True)

    @classmethod
    def _in_units(cls, pairs: Pairs, rows: Tensor, views: range, scale: dict[str, float], of_targets: bool) -> Moments:
        # Differences from a mean that is nearly right: an offset that is large beside the spread then costs no digits.
        x_near, y_near = (t.mean(dim=0) for t in in_units(pairs, rows[:CHUNK_ROWS], 0, scale))
        count, x_sum, y_sum = 0, torch.zeros_like(x_near), torch.zeros_like(y_near)
        xx, xy = x_near.new_zeros(len(x_near), len(x_near)), x_near.new_zeros(len(x_near), len(y_near))
        yy = y_near.new_zeros(len(y_near), len(y_near)) if of_targets else None
        for view in views:
            for part in chunks(rows, CHUNK_ROWS):
                x, y = in_units(pairs, part, view, scale)
                x, y = x - x_near, y - y_near
                count += len(x)
                x_sum += x.sum(dim=0)
                y_sum += y.sum(dim=0)
                xx.addmm_(x.T, x)
                xy.addmm_(x.T, y)
                if yy is not None:
                    yy.addmm_(y.T, y)
        x_off, y_off = x_sum / count, y_sum / count
        return cls(
            count=count,
            dims={name: int(x.shape[2]) for name, x in pairs.named()},
            scale=scale,
            x_mean=_numpy(x_near + x_off),
            y_mean=_numpy(y_near + y_off),
            xx=_numpy(xx / count - torch.outer(x_off, x_off)),
            xy=_numpy(xy / count - torch.outer(x_off, y_off)),
            yy=None if yy is None else _numpy(yy / count - torch.outer(y_off, y_off)),
        )


def in_units(pairs: Pairs, rows: Tensor, view: int, scale: dict[str, float]) -> tuple[Tensor, Tensor]:
    """float64 (x, y) of `rows` in one view, each array times its scale."""
    old, side, new = pairs.batch(rows, view)
    parts = [old.double() * scale["old"]] + ([] if side is None else [side.double() * scale["side"]])
    return torch.cat(parts, dim=1), new.double() * scale["new"]


def _numpy(x: Tensor) -> F64:
    array: F64 = x.cpu().numpy()
    return array
