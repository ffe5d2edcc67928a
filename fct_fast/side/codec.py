"""Codec: side-information rows to few bytes an item and back; `fit_codec` makes one from a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from fct_fast.side.arrays import F32, F64, FLOAT32_MAX, Codes, checked_rows, chunks
from fct_fast.side.product import Product
from fct_fast.side.reduce import PCA, Reduction, Truncation
from fct_fast.side.scalar import Binary, Float32, Int8

__all__ = ["Codec", "Quantiser", "fit_codec", "parse_spec"]

Quantiser = Float32 | Int8 | Binary | Product

_FIT_ROWS = 65536  # 256 a centroid of product quantisation; more rows move no parameter by much
_STEP = re.compile(r"(truncate|pca|pq)([1-9][0-9]{0,4})|(float32|int8|binary)")


@dataclass(frozen=True, eq=False)
class Codec:
    """Reductions of the dimension, one after another, then one quantiser. Immutable; safe in several threads.

    `decode(encode(rows))` has `decoded_dim` values a row: h is fitted on these rows and fed with these rows, never
    with the original ones.
    """

    reductions: tuple[Reduction, ...]
    quantiser: Quantiser

    def __post_init__(self) -> None:
        dims = [(step.in_dim, step.out_dim) for step in self.reductions] + [(self.quantiser.dim, 0)]
        for (_, made), (wanted, _) in pairwise(dims):
            if made != wanted:
                raise ConfigError(f"a step of a codec gives {made} dimensions, but the next one takes {wanted}")

    @property
    def dim(self) -> int:
        """Values in a row before encoding."""
        return self.reductions[0].in_dim if self.reductions else self.quantiser.dim

    @property
    def decoded_dim(self) -> int:
        """Values in a decoded row."""
        return self.quantiser.dim

    @property
    def bytes_per_item(self) -> int:
        """Bytes of a row's code: the width of what `encode` gives."""
        return self.quantiser.bytes_per_item

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the codes: int8 where int8 is the last step, else uint8."""
        return np.dtype(self.quantiser.dtype)

    @property
    def spec(self) -> str:
        """The name that `fit_codec` takes."""
        last = self.quantiser.kind
        if isinstance(self.quantiser, Product):
            last += str(self.quantiser.bytes_per_item)
        return "+".join([*(f"{step.kind}{step.out_dim}" for step in self.reductions), last])

    def encode(self, rows: npt.ArrayLike) -> Codes:
        """float16, float32 or float64 [n, dim] -> uint8 or int8 [n, bytes_per_item].

        Raises DtypeError, ShapeError, or NonFiniteError naming the first row with NaN, Inf or a value beyond float32.
        """
        array = checked_rows(rows, self.dim)
        codes = np.empty((len(array), self.bytes_per_item), self.dtype)
        for where, part in chunks(array):
            codes[where] = self.quantiser.encode(_reduced(part, self.reductions, where.start))
        return codes

    def decode(self, codes: npt.ArrayLike) -> F32:
        """uint8 or int8 [n, bytes_per_item] -> float32 [n, decoded_dim].

        Raises DtypeError or ShapeError for what is not a code of this codec, ConfigError for a centroid that does not
        exist; NonFiniteError where float32 codes hold NaN or Inf.
        """
        array = np.asarray(codes)
        if array.dtype != self.dtype:
            raise DtypeError(f"codes of {self.spec} are {self.dtype}, got {array.dtype}")
        if array.ndim != 2 or array.shape[1] != self.bytes_per_item:
            raise ShapeError(f"codes of {self.spec} are [rows, {self.bytes_per_item}], got {list(array.shape)}")
        rows = self.quantiser.decode(array)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise NonFiniteError(
                f"row {int(finite.argmin())} of the codes decodes to NaN or Inf; the codes are damaged"
            )
        return rows


def fit_codec(spec: str, rows: npt.ArrayLike, *, seed: int = 0) -> Codec:
    """Fit the codec of this name on rows [n >= 1, dim], float16, float32 or float64.

    spec: steps joined by "+". First any number of reductions: "truncate16" keeps 16 dimensions, "pca16" the 16
    directions of largest variance. Then one of "float32" (the default, 4 bytes a dimension), "int8" (1 byte), "binary"
    (1 bit) and "pq8" (product quantisation with 8 bytes an item). "pca32+int8" takes 32 bytes, "binary" of 64
    dimensions 8.

    Fit on rows that h may be fitted on, never on those that are judged. Of more than 65536 rows the seed draws as many;
    it also starts the k-means. Raises ConfigError for a spec that makes no sense, errors for rows as `Codec.encode`.
    """
    reductions_spec, (last, groups) = parse_spec(spec)
    array = checked_rows(rows)
    if not len(array):
        raise ShapeError("a codec is fitted on at least one row, got none")
    if seed < 0:
        raise ConfigError(f"a seed is not negative, got {seed}")
    for _ in chunks(array):  # all rows are checked, whichever are drawn
        pass
    if len(array) > _FIT_ROWS:
        array = array[np.sort(np.random.default_rng(seed).choice(len(array), _FIT_ROWS, replace=False))]
    sample = array.astype(np.float64)
    reductions: list[Reduction] = []
    for kind, dims in reductions_spec:
        step: Reduction = PCA.fit(sample, dims) if kind == "pca" else Truncation(sample.shape[1], dims)
        sample = _reduced(sample, (step,), 0)
        reductions.append(step)
    quantiser: Quantiser
    if last == "pq":
        quantiser = Product.fit(sample, groups, seed)
    elif last == "float32":
        quantiser = Float32(sample.shape[1])
    else:
        quantiser = Int8.fit(sample) if last == "int8" else Binary.fit(sample)
    return Codec(tuple(reductions), quantiser)


def parse_spec(spec: str) -> tuple[list[tuple[str, int]], tuple[str, int]]:
    """The reductions of a spec as (kind, dims), and its quantiser as (kind, groups; 0 but for "pq"). Raises ConfigError
    for anything else."""
    steps = []
    for part in spec.split("+"):
        match = _STEP.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"there is no codec step {part!r:.40} (in {spec!r:.80}); "
                f"use truncateN, pcaN, then float32, int8, binary or pqN"
            )
        steps.append((match[1] or match[3], int(match[2] or 0)))
    last = steps.pop() if steps[-1][0] not in ("truncate", "pca") else ("float32", 0)
    for kind, _ in steps:
        if kind not in ("truncate", "pca"):
            raise ConfigError(f"{kind} must be the last step of a codec, but {spec!r:.80} goes on after it")
    return steps, last


def _reduced(rows: F64, reductions: tuple[Reduction, ...], first_row: int) -> F64:
    for step in reductions:
        rows = step.apply(rows)
        finite = (np.abs(rows) <= FLOAT32_MAX).all(axis=1)
        if not finite.all():
            raise NonFiniteError(
                f"row {first_row + int(finite.argmin())} of the side-information leaves float32 in the {step.kind} "
                f"step; scale the rows down"
            )
    return rows
