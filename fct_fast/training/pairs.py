"""Pairs: the rows that h is fitted on, checked once, kept in the dtype they came in, gathered batch by batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fct_fast.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from fct_fast.space import SpaceFingerprint

__all__ = ["MIN_PAIRS", "ArrayLike", "Pairs", "chunks", "class_codes", "split_rows"]

MIN_PAIRS = 16
CHUNK_ROWS = 16384

ArrayLike: TypeAlias = npt.NDArray[Any] | Tensor
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Paired rows of the three spaces, each [views, n, dim]; view 0 is the plain one, an input without views has one.

    `Pairs.of` makes it from arrays.
    """

    old: Tensor
    side: Tensor | None
    new: Tensor
    views: int

    @classmethod
    def of(cls, old: ArrayLike, side: ArrayLike | None, new: ArrayLike, device: torch.device) -> Pairs:
        """Check [n, dim] or [views, n, dim] floating-point arrays.

        Raises DtypeError, ShapeError (rows or views do not pair up, fewer than 16 rows), NonFiniteError (names array
        and row), ConfigError (every row of an array is the same).
        """
        given = {"old": old, "side": side, "new": new}
        arrays = {name: _views_first(name, array) for name, array in given.items() if array is not None}
        rows = {name: x.shape[1] for name, x in arrays.items()}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name} has {n}" for name, n in rows.items())
            raise ShapeError(f"rows must pair up one to one, but {counts}")
        if rows["old"] < MIN_PAIRS:
            raise ShapeError(f"a fit needs at least {MIN_PAIRS} pairs, got {rows['old']}")
        views = {name: x.shape[0] for name, x in arrays.items()}
        if len(set(views.values()) - {1}) > 1:
            counts = ", ".join(f"{name} has {n}" for name, n in views.items())
            raise ShapeError(f"views must pair up (or be one), but {counts}")
        for name, x in arrays.items():
            _check_values(name, x)
        on_device = {name: x.to(device) for name, x in arrays.items()}
        return cls(on_device["old"], on_device.get("side"), on_device["new"], max(views.values()))

    @property
    def rows(self) -> int:
        return int(self.old.shape[1])

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield "old", self.old
        if self.side is not None:
            yield "side", self.side
        yield "new", self.new

    def batch(self, rows: Tensor, view: Tensor | int = 0) -> tuple[Tensor, Tensor | None, Tensor]:
        """float32 (old, side, new) of `rows`, in the given view (one for all, or one a row)."""
        side = None if self.side is None else gather(self.side, rows, view)
        return gather(self.old, rows, view), side, gather(self.new, rows, view)

    def rms(self, rows: Tensor) -> dict[str, float]:
        """Root of the mean squared element of each array over `rows` and all views."""
        return {name: _rms(x, rows) for name, x in self.named()}

    def fingerprints(self) -> dict[str, SpaceFingerprint]:
        """The statistics of view 0 of each space: what a gallery stores."""
        return {name: SpaceFingerprint.measure(_as_numpy(x[0])) for name, x in self.named()}


def gather(x: Tensor, rows: Tensor, view: Tensor | int) -> Tensor:
    """float32 rows of [views, n, dim]; an array with one view answers for all."""
    if x.shape[0] == 1:
        return x[0].index_select(0, rows).float()
    return x.flatten(0, 1).index_select(0, rows + view * x.shape[1]).float()


def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """`rows` in pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def split_rows(
    n: int,
    held_out: float,
    rng: np.random.Generator,
    labels: Sequence[Any] | npt.NDArray[Any] | None = None,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> tuple[I64, I64]:
    """Training and held-out rows, each rising; about `held_out` of the rows are held out, at least one unless it is 0.

    With groups, rows of one group stay on one side; else with labels, each class gives its share. Raises ShapeError
    where labels or groups do not have n entries, ConfigError where the groups cannot be split.
    """
    codes = {name: class_codes(name, values, n) for name, values in (("labels", labels), ("groups", groups))}
    mask = np.zeros(n, bool)
    if held_out > 0:
        if codes["groups"] is not None:
            mask = _held_out_groups(codes["groups"], held_out * n, rng)
        elif codes["labels"] is not None:
            mask = _held_out_stratified(codes["labels"], held_out, rng)
        else:
            mask[rng.permutation(n)[: max(1, round(held_out * n))]] = True
        if not mask.any():
            mask[rng.integers(n)] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _held_out_groups(codes: I64, wanted: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    sizes = np.bincount(codes)
    if len(sizes) < 2:
        raise ConfigError("all rows are of one group, so none can be held out; give more groups, or held_out=0")
    chosen, total = np.zeros(len(sizes), bool), 0
    for group in rng.permutation(len(sizes)):
        if total + sizes[group] <= wanted:
            chosen[group], total = True, total + sizes[group]
    if not chosen.any():
        chosen[sizes.argmin()] = True
    return chosen[codes]


def _held_out_stratified(codes: I64, share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    quota = np.floor(share * sizes + rng.random(len(sizes)))  # right on average for classes of any size
    mask = np.zeros(len(codes), bool)
    mask[order] = rank < quota[codes[order]]
    return mask


def class_codes(name: str, values: Sequence[Any] | npt.NDArray[Any] | None, n: int) -> I64 | None:
    """Any labels as int64 [n], equal where they are; None for None. Raises ShapeError where there are not n of them."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (n,):
        raise ShapeError(f"{name} must have one entry for each of the {n} rows, got {list(array.shape)}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _views_first(name: str, array: ArrayLike) -> Tensor:
    if isinstance(array, np.ndarray):
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            raise DtypeError(f"{name} must hold float16, float32 or float64 values, got {array.dtype}")
        with warnings.catch_warnings():  # a read-only array is never written to here
            warnings.filterwarnings("ignore", message=".*not writable.*")
            array = torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    if not isinstance(array, Tensor):
        raise DtypeError(f"{name} must be a numpy array or a torch tensor, got {type(array).__name__}")
    if not array.is_floating_point():
        raise DtypeError(f"{name} must hold floating-point values, got {array.dtype}")
    if array.ndim not in (2, 3) or array.shape[-1] == 0 or (array.ndim == 3 and array.shape[0] == 0):
        raise ShapeError(f"{name} must be [rows, dim] or [views, rows, dim], got {list(array.shape)}")
    return (array if array.ndim == 3 else array[None]).detach().contiguous()


def _check_values(name: str, x: Tensor) -> None:
    first, constant = x[0, :1].float(), True
    for view in range(x.shape[0]):
        for start in range(0, x.shape[1], CHUNK_ROWS):
            chunk = x[view, start : start + CHUNK_ROWS].float()
            good = torch.isfinite(chunk).all(dim=1)
            if not bool(good.all()):
                row = start + int(good.int().argmin())
                where = f"row {row}" + (f" of view {view}" if x.shape[0] > 1 else "")
                raise NonFiniteError(
                    f"{name} holds NaN or Inf (or a value beyond float32) in {where}; fix or drop that row"
                )
            constant = constant and bool((chunk == first).all())
    if constant:
        raise ConfigError(f"every row of {name} is the same, so there is nothing to fit; check how it was made")


def _rms(x: Tensor, rows: Tensor) -> float:
    total, count = 0.0, 0
    for view in range(x.shape[0]):
        for part in chunks(rows, CHUNK_ROWS):
            chunk = gather(x, part, view).double()
            total, count = total + float(chunk.square().sum()), count + chunk.numel()
    return math.sqrt(total / count)


def _as_numpy(x: Tensor) -> npt.NDArray[Any]:
    x = x.cpu()
    array: npt.NDArray[Any] = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return array
