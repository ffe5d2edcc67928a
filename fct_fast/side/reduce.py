"""Reductions: rows of fewer dimensions, by leaving the last ones out or by PCA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fct_fast.errors import ConfigError
from fct_fast.side.arrays import F32, F64, parameter

__all__ = ["PCA", "Reduction", "Truncation"]


@dataclass(frozen=True, eq=False)
class Truncation:
    """Keeps the first out_dim of in_dim values. What a reduction must be compared with: it is free."""

    kind: ClassVar[str] = "truncate"
    in_dim: int
    out_dim: int

    def __post_init__(self) -> None:
        _check_dims(self.in_dim, self.out_dim)

    def apply(self, rows: F64) -> F64:
        """float64 [n, in_dim] -> [n, out_dim]."""
        return rows[:, : self.out_dim]

    def tensors(self) -> dict[str, F32]:
        return {}


@dataclass(frozen=True, eq=False)
class PCA:
    """The out_dim directions of largest variance. mean: float32 [in_dim]; components: float32 [out_dim, in_dim]."""

    kind: ClassVar[str] = "pca"
    mean: F32
    components: F32

    def __post_init__(self) -> None:
        if self.components.ndim != 2:
            raise ConfigError(f"PCA has components [out_dim, in_dim], got {list(self.components.shape)}")
        _check_dims(self.in_dim, self.out_dim)
        object.__setattr__(self, "mean", parameter("mean", self.mean, (self.in_dim,)))
        object.__setattr__(self, "components", parameter("components", self.components, self.components.shape))

    @property
    def in_dim(self) -> int:
        return int(self.components.shape[1])

    @property
    def out_dim(self) -> int:
        return int(self.components.shape[0])

    @classmethod
    def fit(cls, rows: F64, dims: int) -> PCA:
        """The leading `dims` eigenvectors of the covariance of rows [n >= 1, in_dim].

        The largest element of each is positive, so that the same rows give the same codec. The coordinates are not
        scaled to unit variance: they keep the distances between rows, but for what the left-out directions add.
        """
        _check_dims(rows.shape[1], dims)
        mean = rows.mean(axis=0)
        centred = rows - mean
        _, vectors = np.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
        components = vectors[:, ::-1][:, :dims].T
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        return cls(mean.astype(np.float32), (components * np.sign(largest)).astype(np.float32))

    def apply(self, rows: F64) -> F64:
        """float64 [n, in_dim] -> the coordinates along the components, [n, out_dim]."""
        return (rows - self.mean) @ self.components.T.astype(np.float64)

    def tensors(self) -> dict[str, F32]:
        return {"mean": self.mean, "components": self.components}


Reduction = Truncation | PCA


def _check_dims(in_dim: int, out_dim: int) -> None:
    if not 1 <= out_dim <= in_dim:
        raise ConfigError(f"a reduction keeps 1 to {in_dim} of {in_dim} dimensions, got {out_dim}")
