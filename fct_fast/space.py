"""SpaceFingerprint: which embedding space some rows live in, by name and by statistics.

A bundle carries the fingerprints of the spaces that h was fitted on. A sample of what h is about to read is held
against them, so that rows of another width, scale or offset are refused before they become a useless gallery. Needs
numpy only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, DtypeError, NonFiniteError, ShapeError

__all__ = ["QUANTILES", "Metric", "SpaceFingerprint", "canonical_json"]

Metric = Literal["cosine", "ip", "l2"]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The quantiles of the row norms that a fingerprint records."""

MAX_MODEL_ID = 256

# How far a sample may lie from the recorded rows before it counts as another space. Rows of other classes, or of one
# class alone, are the same space: they move norms and means by less than this. Another scale or offset moves them more.
UNIT_TOLERANCE = 1e-2  # |norm - 1| of rows that were normalised and then rounded to 16 bit
NEAR_UNIT = 0.1  # ... and of rows that lost more than that, for example in an 8-bit store: close enough for h
NORM_FACTOR = 1.5  # the sample's median norm below the low or above the high recorded norms
OFFSET_SIGMAS = 4.0  # RMS over dimensions of (sample mean - mean) / std
MEAN_SHARE = 0.2  # |mean|^2 / mean |row|^2 above which the mean direction is a mark of the space
MEAN_SHRINK = 0.25  # ... and the least share of it that the rows of the same space show
FEW_ROWS = 32  # below this, one odd row decides the sample's mean
SAMPLE_ROWS = 4096  # rows of a larger sample that are looked at
CHUNK_ROWS = 16384
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class SpaceFingerprint:
    """Identity of an embedding space.

    model_id: name of the model, "" where unknown. dim: width of a row. normalized: rows have unit L2 norm. metric: how
    the space is searched. rows: number of rows measured. mean_norm: mean L2 norm. norm_quantiles: norms at
    `QUANTILES`. mean, std: float32 [dim]. Raises ConfigError for values that no space has.
    """

    model_id: str
    dim: int
    normalized: bool
    metric: Metric
    rows: int
    mean_norm: float
    norm_quantiles: tuple[float, ...]
    mean: F32
    std: F32

    def __post_init__(self) -> None:
        if not isinstance(self.model_id, str) or len(self.model_id) > MAX_MODEL_ID or not self.model_id.isprintable():
            raise ConfigError(f"a model id is at most {MAX_MODEL_ID} printable characters, got {self.model_id!r:.80}")
        if self.metric not in get_args(Metric):
            raise ConfigError(f"metric is one of {', '.join(get_args(Metric))}, got {self.metric!r:.80}")
        if self.dim < 1 or self.rows < 1:
            raise ConfigError(f"a fingerprint needs dim >= 1 and rows >= 1, got {self.dim} and {self.rows}")
        quantiles = self.norm_quantiles
        if len(quantiles) != len(QUANTILES) or list(quantiles) != sorted(quantiles):
            raise ConfigError(f"a fingerprint needs {len(QUANTILES)} rising norm quantiles, got {len(quantiles)}")
        if not all(math.isfinite(x) and x >= 0 for x in (self.mean_norm, *quantiles)):
            raise ConfigError("the norms of a fingerprint must be finite and not negative")
        for name, array in (("mean", self.mean), ("std", self.std)):
            if array.dtype != np.float32 or array.shape != (self.dim,) or not np.isfinite(array).all():
                raise ConfigError(f"the {name} of a fingerprint must be {self.dim} finite float32 values")
            array.setflags(write=False)
        if (self.std < 0).any():
            raise ConfigError("the std of a fingerprint must not be negative")

    @classmethod
    def measure(cls, rows: npt.ArrayLike, *, model_id: str = "", metric: Metric = "cosine") -> SpaceFingerprint:
        """The fingerprint of rows [n, dim] (any real dtype, n >= 1), in float64 and bounded memory.

        Raises ShapeError where rows are not [n >= 1, dim >= 1], DtypeError where they hold no numbers, NonFiniteError
        naming the first row with NaN or Inf (or with values beyond float32).
        """
        array = _matrix(rows)
        n, dim = array.shape
        if n < 1 or dim < 1:
            raise ShapeError(f"a space is measured on at least one row of at least one value, got {list(array.shape)}")
        total, norms = np.zeros(dim), np.empty(n)
        for start, chunk in _chunks(array):
            good = np.abs(chunk).max(axis=1) <= FLOAT32_MAX  # False for NaN too
            if not good.all():
                raise NonFiniteError(
                    f"row {start + int(good.argmin())} holds NaN, Inf or a value beyond float32; "
                    f"a space is measured on finite rows"
                )
            norms[start : start + len(chunk)] = _norms(chunk)
            total += chunk.sum(axis=0)
        mean, squares = total / n, np.zeros(dim)
        for _, chunk in _chunks(array):
            squares += np.square(chunk - mean).sum(axis=0)
        quantiles = np.quantile(norms, QUANTILES)
        return cls(
            model_id=model_id,
            dim=dim,
            normalized=_is_unit(norms),
            metric=metric,
            rows=n,
            mean_norm=float(norms.mean()),
            norm_quantiles=tuple(np.maximum.accumulate(quantiles).tolist()),
            mean=mean.astype(np.float32),
            std=np.sqrt(squares / n).astype(np.float32),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives back an equal fingerprint, bit for bit."""
        return {
            "model_id": self.model_id,
            "dim": self.dim,
            "normalized": self.normalized,
            "metric": self.metric,
            "rows": self.rows,
            "mean_norm": self.mean_norm,
            "norm_quantiles": list(self.norm_quantiles),
            "mean": _short_floats(self.mean),
            "std": _short_floats(self.std),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SpaceFingerprint:
        """The inverse of `to_json`. Raises ConfigError where a field is missing, unknown or of another type."""
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or set(document) != names:
            raise ConfigError(f"a fingerprint has the fields {', '.join(sorted(names))}")
        integers, flag = (document["dim"], document["rows"]), document["normalized"]
        lists = [document[name] for name in ("norm_quantiles", "mean", "std")]
        if not all(type(x) is int for x in integers) or type(flag) is not bool or not _is_number(document["mean_norm"]):
            raise ConfigError("a field of a fingerprint has the wrong type")
        if not all(isinstance(x, list) and all(map(_is_number, x)) for x in lists):
            raise ConfigError("norm_quantiles, mean and std of a fingerprint must be lists of numbers")
        with np.errstate(over="ignore"):  # too large for float32 becomes Inf, which __post_init__ refuses
            mean, std = (np.asarray(x, np.float64).astype(np.float32) for x in lists[1:])
        return cls(
            model_id=document["model_id"],
            dim=document["dim"],
            normalized=flag,
            metric=document["metric"],
            rows=document["rows"],
            mean_norm=float(document["mean_norm"]),
            norm_quantiles=tuple(map(float, lists[0])),
            mean=mean,
            std=std,
        )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, SpaceFingerprint) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def mismatch(self, sample: npt.ArrayLike, name: str) -> str | None:
        """A sentence when a sample [n, dim] cannot come from this space, None when it can; `name` says what it is.

        Looks at the width, at unit against raw norms, at the scale of the norms and at the offset of the mean. Rows
        with NaN or Inf and zero rows are left out, and of more than 4096 rows evenly spaced ones are read. Sampling
        noise and other classes pass; another model with the same statistics cannot be told apart, only named (see
        `conflict`). Raises ShapeError where the sample is not two-dimensional, DtypeError where it holds no numbers.
        """
        array = _matrix(sample)
        if array.shape[1] != self.dim:
            return f"{name} has {array.shape[1]} values a row, but {self._described()} has {self.dim}"
        rows = array[:: max(1, -(-len(array) // SAMPLE_ROWS))].astype(np.float64)
        norms = _norms(rows)
        usable = np.isfinite(norms) & (norms > 0)
        if not usable.any():
            return None
        return self._norm_mismatch(norms[usable], name) or self._offset_mismatch(rows[usable], norms[usable], name)

    def conflict(self, other: SpaceFingerprint) -> str | None:
        """A sentence when two fingerprints differ in model, width or normalisation; an empty model id fits any."""
        if self.model_id and other.model_id and self.model_id != other.model_id:
            return f"the spaces are of different models, {self.model_id!r} and {other.model_id!r}"
        if self.dim != other.dim:
            return f"the spaces have different widths, {self.dim} and {other.dim}"
        if self.normalized != other.normalized:
            first, second = (("raw", "unit")[x.normalized] for x in (self, other))
            return f"the spaces differ in normalisation: {self._described()} has {first} rows, the other {second} rows"
        return None

    def _described(self) -> str:
        return f"the recorded space{f' {self.model_id!r}' if self.model_id else ''}"

    def _norm_mismatch(self, norms: F64, name: str) -> str | None:
        recorded = dict(zip(QUANTILES, self.norm_quantiles, strict=True))
        low, median, high = np.quantile(norms, (0.05, 0.5, 0.95)).tolist()
        near_unit = _is_near_unit(low, high)
        if self.normalized and not near_unit:
            return (
                f"{name} has rows of norm {norms.min():.4g} to {norms.max():.4g}, but {self._described()} holds unit "
                f"rows; L2-normalise them first"
            )
        if _is_unit(norms) and len(norms) >= 4 and not _is_near_unit(recorded[0.05], recorded[0.95]):
            return (
                f"{name} has unit rows, but {self._described()} holds raw rows of mean norm {self.mean_norm:.4g}; "
                f"give the rows as the model made them"
            )
        least, most = (0.0, 1.0) if len(norms) < 4 else (0.01, 0.99) if len(norms) < FEW_ROWS else (0.05, 0.95)
        if not recorded[least] / NORM_FACTOR <= median <= recorded[most] * NORM_FACTOR:
            return (
                f"{name} has another scale than {self._described()}: median norm {median:.4g}, recorded "
                f"{recorded[0.5]:.4g}; rescale the rows, or fit h on rows like these"
            )
        return None

    def _offset_mismatch(self, rows: F64, norms: F64, name: str) -> str | None:
        mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        sample_mean = rows.mean(axis=0)
        # A dimension that was constant when measured (a dead ReLU) may wake up on other rows: a tenth of the usual std.
        floor = max(0.1 * math.sqrt(float(np.mean(std**2))), 1e-3 * self.mean_norm / math.sqrt(self.dim), 1e-30)
        sigmas = math.sqrt(float(np.mean(((sample_mean - mean) / np.maximum(std, floor)) ** 2)))
        if sigmas > OFFSET_SIGMAS * (1 + 1 / math.sqrt(len(rows))):
            return (
                f"{name} has another offset than {self._described()}: its mean lies {sigmas:.1f} standard deviations "
                f"away; give the rows as the model made them, or fit h on rows like these"
            )
        energy = float(mean @ mean)
        if len(rows) < FEW_ROWS or energy < MEAN_SHARE * self.mean_norm**2:
            return None
        share = float(sample_mean @ mean) / energy
        if share < MEAN_SHRINK:
            return (
                f"{name} lacks the mean direction of {self._described()} (it shows {share:.0%} of it), as centred rows "
                f"or rows of another model do; give the rows as the recorded model made them"
            )
        return None


def canonical_json(document: Any) -> bytes:
    """One byte string a value: sorted keys, no spaces, ASCII. Raises ValueError for NaN and Inf."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _matrix(rows: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(rows)
    if array.ndim != 2:
        raise ShapeError(f"rows must be [n, dim], got {list(array.shape)}")
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"rows must hold real numbers, got dtype {array.dtype}")
    return array


def _chunks(array: npt.NDArray[Any]) -> Iterator[tuple[int, F64]]:
    for start in range(0, len(array), CHUNK_ROWS):
        yield start, array[start : start + CHUNK_ROWS].astype(np.float64)


def _norms(rows: F64) -> F64:
    with np.errstate(invalid="ignore", over="ignore"):
        return cast(F64, np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def _is_unit(norms: F64) -> bool:
    """Whether rows were L2-normalised; zero rows, which cannot be, say nothing."""
    norms = norms[norms > 0]
    if not norms.size:
        return False
    low, high = np.quantile(norms, (0.01, 0.99))
    return bool(abs(low - 1) <= UNIT_TOLERANCE and abs(high - 1) <= UNIT_TOLERANCE)


def _is_near_unit(low: float, high: float) -> bool:
    return abs(low - 1) <= NEAR_UNIT and abs(high - 1) <= NEAR_UNIT


def _short_floats(array: F32) -> list[float]:
    """Each float32 by its shortest decimal: half the digits, and the same float32 when read back."""
    return [float(str(x)) for x in array]


def _is_number(x: object) -> bool:
    return type(x) in (int, float)
