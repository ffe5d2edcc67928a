"""Upgrader: a forward transformation, packed once and run by the compiled kernels. Needs numpy only."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fct_fast.bundle import Bundle, read_bundle
from fct_fast.errors import ConfigError, DeviceError, DtypeError, ShapeError, SpaceError
from fct_fast.kernels import KERNEL_VERSION, native, resolve_level, usable_threads
from fct_fast.kernels.arrays import as_rows, is_torch, like, row_sample, shared_tensor
from fct_fast.kernels.cuda import JOB_ROWS, CudaEngine, cuda_device
from fct_fast.kernels.int8 import calibrated
from fct_fast.kernels.packing import pack_int8, pack_spec
from fct_fast.kernels.status import check_status
from fct_fast.space import SpaceFingerprint
from fct_fast.spec import TransformSpec

if TYPE_CHECKING:
    from fct_fast.transform import ForwardTransform

__all__ = ["Upgrader"]

ScaleCheck = Literal["raise", "warn", "off"]

# Scale is checked until this many rows were looked at; a sample of fewer rows than the second number says too little.
_ROWS_TO_CHECK = 2048
_FEWEST_ROWS = 32


class Upgrader:
    """h ready to run: `up(old, side)` gives rows of the new space.

    source: a bundle's path, a Bundle, a ForwardTransform or a TransformSpec.
    device: "auto" and "cpu" compute on the CPU; "cuda" or "cuda:N" on a GPU, where the environment allows kernels that
    have not run on one yet (`fct-fast doctor` says how). precision: "fp32" (within 2e-6 of float64, norm-wise), "bf16"
    (within 1e-2; on the CPU with AVX-512 BF16), "int8" (within 3e-2 on a fitted h; the same bits on the CPU and on a
    GPU), "fp16" (within 1.5e-3; on a GPU), or "auto": fp32, on a GPU fp16.
    threads: at most this many (default: the cores this process may use). level: a CPU level instead of the machine's
    best. calibration: (old, side) rows that int8 takes its scales from, instead of those of the bundle; no other
    precision has scales.
    scale_check: what to do where rows do not have the scale that h was fitted on; applies where the source carries
    the statistics of its spaces.

    Safe to call from several threads; releases the GIL; Ctrl-C ends a call within 0.2 s. A row's bits depend on the
    row, the weights and the CPU level only; on a GPU in 16 bit also on the kernels, which are chosen by the number of
    rows.
    Raises BundleError, ConfigError, DeviceError.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Bundle | ForwardTransform | TransformSpec,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        calibration: tuple[Any, Any] | None = None,
        scale_check: ScaleCheck = "raise",
        level: str | None = None,
    ) -> None:
        gpu = None if device in ("auto", "cpu") else cuda_device(device)
        precisions = ("fp32", "bf16", "int8") if gpu is None else ("fp16", "bf16", "fp32", "int8")
        if precision not in ("auto", *precisions):
            raise ConfigError(f"precision is {precision!r}; use 'auto' or one of {', '.join(precisions)}")
        if scale_check not in ("raise", "warn", "off"):
            raise ConfigError(f"scale_check is {scale_check!r}; use 'raise', 'warn' or 'off'")
        self.spec, self.spaces, scales, digest = _resolve(source)
        self.device = "cpu" if gpu is None else f"cuda:{gpu}"
        self.precision = precision if precision != "auto" else "fp32" if gpu is None else "fp16"
        self.threads = usable_threads(threads)
        self.scale_check: ScaleCheck = scale_check
        self.level = self._usable_level(level)
        # What a traced program is told: it may run on another machine, so only what the user forced.
        self._traced_level, self._traced_threads = level or "", threads or 0
        self.kernel_version = KERNEL_VERSION
        quantized = calibrated(self.spec, scales, calibration) if self.precision == "int8" else None
        self._cuda = None if gpu is None else CudaEngine(self.spec, self.precision, gpu, quantized, self.threads)
        if quantized is not None:
            self._packed = pack_int8(quantized)
            if calibration is not None:
                digest = None  # the bundle's says nothing of these scales; the packed weights do
        else:
            self._packed = pack_spec(self.spec, self.precision if gpu is None else "fp32")
        # Made now where torch is there: made inside a trace, it would be a tensor of the trace.
        self._packed_tensor: Any = self._tensor_of_packed() if "torch" in sys.modules else None
        self._rows_checked = 0
        self.digest = digest or hashlib.sha256(self._packed.tobytes()).hexdigest()

    @property
    def old_dim(self) -> int:
        return self.spec.old_dim

    @property
    def side_dim(self) -> int:
        return self.spec.side_dim

    @property
    def new_dim(self) -> int:
        return self.spec.new_dim

    def at_level(self, level: str) -> Upgrader:
        """The same transform at another CPU level, sharing the weights; DeviceError where the machine lacks it."""
        other = object.__new__(Upgrader)
        other.__dict__.update(self.__dict__, level=self._usable_level(level), _traced_level=level)
        return other

    def for_jobs(self) -> Upgrader:
        """The same transform as a backfill runs it: on a GPU by one kernel family, whose name is `level`, so that no
        row's bits depend on how a gallery is cut."""
        if self._cuda is None:
            return self
        other = object.__new__(Upgrader)
        other.__dict__.update(self.__dict__, _cuda=self._cuda.for_jobs(), level=self._cuda.family(JOB_ROWS))
        return other

    def _usable_level(self, level: str | None) -> str:
        name = resolve_level(level)
        if self.device == "cpu" and self.precision == "bf16" and not native().has_bf16(name):
            raise DeviceError(f"precision 'bf16' needs AVX-512 BF16, which level {name!r} here lacks; use 'fp32'")
        return name

    def __call__(
        self,
        old: Any,
        side: Any = None,
        *,
        out: Any = None,
        out_dtype: Any = None,
        nonfinite: Literal["raise", "flag"] = "raise",
        return_uncertainty: bool = False,
    ) -> Any:
        """old [n, old_dim], side [n, side_dim] -> new [n, new_dim], float32 or `out_dtype` (float16, bfloat16 for
        torch).

        Inputs: float32, float16 or bfloat16; numpy, torch, or anything with DLPack; on the CPU or, for an Upgrader on a
        GPU, also there. torch in, torch out; a GPU's array of another library (CuPy) comes back as one; else numpy.
        out: receives the rows and is returned. nonfinite="flag" returns (new, bad): rows with NaN, Inf, overflow or
        zero norm are zero rows, bad is bool [n]; "raise" raises for all but the last. return_uncertainty adds s,
        float32 [n], after new.
        Raises ShapeError, DtypeError, NonFiniteError (first bad row), SpaceError (scale).
        """
        given, given_out, out = old, out, None if out is None else shared_tensor(out, "out")
        old, side = self._checked_inputs(old, side)
        if nonfinite not in ("raise", "flag"):
            raise ConfigError(f"nonfinite is {nonfinite!r}; use 'raise' or 'flag'")
        if return_uncertainty and not self.spec.uncertainty:
            raise ConfigError("this transform has no uncertainty head, so return_uncertainty cannot be served")
        if is_torch(old) and out is None and (self._cuda is None or _is_traced(old)):
            new, s, bad = self._run_torch(old, side, out_dtype, nonfinite, return_uncertainty)
        else:
            new, s, bad = self._run(old, side, out, out_dtype, nonfinite, return_uncertainty)
        new = like(given, new) if given_out is None else given_out
        s, bad = (x if x is None else like(given, x) for x in (s, bad))
        result = (new,) + ((s,) if return_uncertainty else ()) + ((bad,) if nonfinite == "flag" else ())
        return result if len(result) > 1 else new

    def search(
        self, queries: Any, old: Any, side: Any = None, k: int = 10, metric: Literal["cosine", "ip", "l2"] = "cosine"
    ) -> tuple[Any, Any]:
        """Top-k over a gallery that is upgraded chunk by chunk and never kept.

        queries [nq, new_dim] (embeddings of the new model), old [n, old_dim], side [n, side_dim] -> scores float32
        [nq, k], ids int64 [nq, k]; the same bits as `topk(queries, up(old, side), k)`.
        """
        from fct_fast.search import search_upgraded

        old, side = self._checked_inputs(old, side)
        return search_upgraded(self, queries, old, side, k, metric)

    def chunk(self, old: Any, side: Any, first_row: int) -> Any:
        """float32 numpy rows of a piece of a larger array whose row `first_row` is the piece's first; errors count from
        there. The caller has checked the whole: nothing is checked here but for NaN and Inf."""
        return self._run(old, side, None, None, "raise", False, first_row)[0]

    def device_chunk(self, old: Any, side: Any, first_row: int, like_rows: int) -> Any:
        """The same of tensors on this Upgrader's GPU, as a tensor there; kernels are chosen as for like_rows rows."""
        out = self._empty_rows(old, None)
        return self._run_on_device(old, side, out, "raise", False, first_row, like_rows)[0]

    def _checked_inputs(self, old: Any, side: Any) -> tuple[Any, Any]:
        old = as_rows(old, "old", self.old_dim, self.device)
        if self.side_dim == 0:
            if side is not None:
                raise ShapeError("this transform was fitted without side-information, but side was given; leave it out")
        elif side is None:
            raise ShapeError(f"this transform needs side-information of {self.side_dim} values a row; side is missing")
        else:
            side = as_rows(side, "side", self.side_dim, self.device)
            if side.shape[0] != old.shape[0]:
                raise ShapeError(f"old has {old.shape[0]} rows and side has {side.shape[0]}; row i of both is one item")
            if is_torch(side) != is_torch(old):
                raise DtypeError(
                    "old and side are of two libraries; pass both as numpy arrays or both as torch tensors"
                )
        if self.scale_check != "off" and self._rows_checked < _ROWS_TO_CHECK and not _is_traced(old):
            self._check_scale(old, side)
        return old, side

    def _check_scale(self, old: Any, side: Any) -> None:
        if old.shape[0] < _FEWEST_ROWS:
            return
        for name, rows in (("old", old), ("side", side)):
            if rows is None or name not in self.spaces:
                continue
            sample = row_sample(rows, _ROWS_TO_CHECK)
            finite = np.isfinite(sample).all(axis=1)
            sentence = self.spaces[name].mismatch(sample[finite], name) if finite.any() else None
            if sentence is None:
                continue
            if self.scale_check == "raise":
                raise SpaceError(f"{sentence} (scale_check='warn' goes on anyway)")
            warnings.warn(sentence, stacklevel=4)
        self._rows_checked += int(old.shape[0])

    def _run(
        self,
        old: Any,
        side: Any,
        out: Any,
        out_dtype: Any,
        nonfinite: str,
        return_uncertainty: bool,
        first_row: int = 0,
    ) -> tuple[Any, Any, Any]:
        rows = old.shape[0]
        if out is None:
            out = self._empty_rows(old, out_dtype)
        elif out_dtype is not None and _dtype_name(out_dtype) != _dtype_name(getattr(out, "dtype", None)):
            raise DtypeError(f"out and out_dtype={out_dtype!r} are of two dtypes; give one of the two")
        if is_torch(old) and old.device.type != "cpu":
            return self._run_on_device(old, side, out, nonfinite, return_uncertainty, first_row)
        status = np.empty(rows, np.uint8)
        s = np.empty(rows, np.float32) if return_uncertainty else None
        if self._cuda is not None:
            self._cuda.run(old, side, out, s, status)
        else:
            native().upgrade(self._packed, self.level, old, side, out, s, status, self.threads)
        if nonfinite == "raise":
            check_status(status, first_row)
        bad = status != 0
        if is_torch(out):
            import torch

            return out, None if s is None else torch.from_numpy(s), torch.from_numpy(bad)
        return out, s, bad

    def _run_on_device(
        self,
        old: Any,
        side: Any,
        out: Any,
        nonfinite: str,
        return_uncertainty: bool,
        first_row: int,
        like_rows: int = 0,
    ) -> tuple[Any, Any, Any]:
        assert self._cuda is not None  # as_rows has let the tensor through
        import torch

        status = torch.empty(old.shape[0], dtype=torch.uint8, device=old.device)
        s = torch.empty(old.shape[0], dtype=torch.float32, device=old.device) if return_uncertainty else None
        self._cuda.run(old, side, out, s, status, like_rows)
        if nonfinite == "raise":
            check_status(status.cpu().numpy(), first_row)
        return out, s, status != 0

    def _empty_rows(self, old: Any, out_dtype: Any) -> Any:
        """Rows to fill where the caller gave none: torch beside torch on a GPU's Upgrader, else numpy."""
        shape = (old.shape[0], self.new_dim)
        if self._cuda is None or not is_torch(old):
            return np.empty(shape, _numpy_dtype(out_dtype))
        return old.new_empty(shape, dtype=_torch_dtype(out_dtype))

    def _run_torch(
        self, old: Any, side: Any, out_dtype: Any, nonfinite: str, return_uncertainty: bool
    ) -> tuple[Any, Any, Any]:
        from fct_fast.kernels import ops

        packed = self._packed_tensor
        if packed is None:
            packed = self._tensor_of_packed()
            if not _is_traced(packed):
                self._packed_tensor = packed
        traced = _is_traced(old)
        result: tuple[Any, Any, Any] = ops.upgrade(
            packed,
            old,
            side,
            self.new_dim,
            _torch_dtype(out_dtype),
            return_uncertainty,
            nonfinite == "raise",
            self._traced_level if traced else self.level,
            self._traced_threads if traced else self.threads,
        )
        return result

    def _tensor_of_packed(self) -> Any:
        import torch

        packed = torch.from_numpy(self._packed)
        if self._cuda is not None:
            from fct_fast.kernels import ops

            ops.bind_engine(packed, self._cuda)
        return packed

    def __repr__(self) -> str:
        return (
            f"Upgrader(old_dim={self.old_dim}, side_dim={self.side_dim}, new_dim={self.new_dim}, "
            f"device={self.device!r}, precision={self.precision!r}, level={self.level!r}, threads={self.threads})"
        )


def _resolve(source: Any) -> tuple[TransformSpec, Mapping[str, SpaceFingerprint], Mapping[str, Any], str | None]:
    """(spec, spaces, scales, digest), what is not known left empty."""
    if isinstance(source, (str, os.PathLike)):
        source = read_bundle(source)
    if isinstance(source, Bundle):
        return source.spec, source.spaces, source.scales, source.digest
    if isinstance(source, TransformSpec):
        return source, {}, {}, None
    if hasattr(source, "to_spec"):
        return source.to_spec(), dict(getattr(source, "spaces", None) or {}), {}, None
    raise DtypeError(
        f"an Upgrader is made from a bundle's path, a Bundle, a ForwardTransform or a TransformSpec, not from a "
        f"{type(source).__name__}"
    )


def _is_traced(x: Any) -> bool:
    """Under torch.compile or torch.export there are no values to look at."""
    if not is_torch(x):
        return False
    import torch

    return torch.compiler.is_compiling() or type(x) is not torch.Tensor


def _numpy_dtype(out_dtype: Any) -> Any:
    name = _dtype_name(out_dtype)
    if name not in ("float32", "float16"):
        raise DtypeError(f"out_dtype is {out_dtype!r}; numpy output is float32 or float16")
    return np.dtype(name)


def _torch_dtype(out_dtype: Any) -> Any:
    import torch

    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    dtype = dtypes.get(_dtype_name(out_dtype))
    if dtype is None:
        raise DtypeError(f"out_dtype is {out_dtype!r}; use float32, float16 or bfloat16")
    return dtype


def _dtype_name(dtype: Any) -> str:
    """The plain name of a numpy or torch dtype, of a name, or of nothing: float32."""
    if dtype is None:
        return "float32"
    text = str(dtype).removeprefix("torch.")
    if text in ("float32", "float16", "bfloat16"):
        return text
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return text
