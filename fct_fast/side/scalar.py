"""Quantisers that treat each dimension by itself: float32 (none at all), int8 and binary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fct_fast.errors import ConfigError
from fct_fast.side.arrays import F32, F64, Codes, parameter

__all__ = ["Binary", "Float32", "Int8"]


@dataclass(frozen=True, eq=False)
class Float32:
    """The values themselves, four bytes a dimension, little-endian. Codes: uint8 [n, 4 dim]."""

    kind: ClassVar[str] = "float32"
    dtype: ClassVar[type[np.generic]] = np.uint8
    dim: int

    @property
    def bytes_per_item(self) -> int:
        return 4 * self.dim

    def encode(self, rows: F64) -> Codes:
        return np.ascontiguousarray(rows, "<f4").view(np.uint8)

    def decode(self, codes: Codes) -> F32:
        return np.ascontiguousarray(codes).view("<f4").astype(np.float32)

    def tensors(self) -> dict[str, F32]:
        return {}


@dataclass(frozen=True, eq=False)
class Int8:
    """One byte a dimension: value = centre + scale * code, with codes -127 .. 127. Codes: int8 [n, dim].

    centre, scale: float32 [dim], scale > 0. The fitted range is cut into 254 steps, so a value inside it comes back
    within half a scale; a value outside it becomes the nearest end.
    """

    kind: ClassVar[str] = "int8"
    dtype: ClassVar[type[np.generic]] = np.int8
    centre: F32
    scale: F32

    def __post_init__(self) -> None:
        shape = (self.centre.size,)
        object.__setattr__(self, "centre", parameter("centre", self.centre, shape))
        object.__setattr__(self, "scale", parameter("scale", self.scale, shape))
        _require((self.scale > 0).all(), "the scale of an int8 codec must be positive")
        ends = np.abs(self.centre.astype(np.float64)) + 128 * self.scale.astype(np.float64)
        _require(ends.max() < np.finfo(np.float32).max, "an int8 codec reaches beyond float32; scale the rows down")

    @property
    def dim(self) -> int:
        return self.centre.size

    @property
    def bytes_per_item(self) -> int:
        return self.dim

    @classmethod
    def fit(cls, rows: F64) -> Int8:
        """From the smallest to the largest value of each dimension of rows [n >= 1, dim]."""
        low, high = rows.min(axis=0), rows.max(axis=0)
        scale = ((high - low) / 254).astype(np.float32)
        # A constant dimension stays constant: its steps are too small to move the centre.
        return cls(((high + low) / 2).astype(np.float32), np.maximum(scale, np.finfo(np.float32).tiny))

    def encode(self, rows: F64) -> Codes:
        codes = np.rint((rows - self.centre) / self.scale.astype(np.float64))
        return np.clip(codes, -127, 127).astype(np.int8)

    def decode(self, codes: Codes) -> F32:
        return self.centre + codes.astype(np.float32) * self.scale

    def tensors(self) -> dict[str, F32]:
        return {"centre": self.centre, "scale": self.scale}


@dataclass(frozen=True, eq=False)
class Binary:
    """One bit a dimension: whether a value lies above the mean. Codes: uint8 [n, ceil(dim / 8)], first bit highest.

    threshold: float32 [dim]; low, high: float32 [dim], the mean of the fitted values on either side, which a bit
    decodes to: of all pairs of values the ones with the least squared error.
    """

    kind: ClassVar[str] = "binary"
    dtype: ClassVar[type[np.generic]] = np.uint8
    threshold: F32
    low: F32
    high: F32

    def __post_init__(self) -> None:
        for name in ("threshold", "low", "high"):
            object.__setattr__(self, name, parameter(name, getattr(self, name), (self.threshold.size,)))

    @property
    def dim(self) -> int:
        return self.threshold.size

    @property
    def bytes_per_item(self) -> int:
        return -(-self.dim // 8)

    @classmethod
    def fit(cls, rows: F64) -> Binary:
        """From rows [n >= 1, dim]."""
        threshold = rows.mean(axis=0).astype(np.float32)
        above = rows > threshold
        count = above.sum(axis=0)
        total_above = np.where(above, rows, 0).sum(axis=0)
        total_below = np.where(above, 0, rows).sum(axis=0)
        high = np.where(count > 0, total_above / np.maximum(count, 1), threshold)
        low = np.where(count < len(rows), total_below / np.maximum(len(rows) - count, 1), threshold)
        return cls(threshold, low.astype(np.float32), high.astype(np.float32))

    def encode(self, rows: F64) -> Codes:
        return np.packbits(rows > self.threshold, axis=1)

    def decode(self, codes: Codes) -> F32:
        bits = np.unpackbits(codes, axis=1, count=self.dim)
        return np.where(bits == 1, self.high, self.low)

    def tensors(self) -> dict[str, F32]:
        return {"threshold": self.threshold, "low": self.low, "high": self.high}


def _require(good: bool | np.bool_, sentence: str) -> None:
    if not good:
        raise ConfigError(sentence)
