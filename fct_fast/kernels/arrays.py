"""What the package accepts as rows of numbers: numpy arrays, torch tensors, anything with DLPack. No torch import."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fct_fast.errors import DtypeError, ShapeError

__all__ = ["as_rows", "cuda_place", "is_torch", "like", "row_sample", "shared_tensor", "to_float32"]

_FLOATS = {np.dtype(np.float32), np.dtype(np.float16)}  # of native byte order


def is_torch(x: object) -> bool:
    """Whether x is a torch tensor; never imports torch (a tensor exists only where somebody did)."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


_DLPACK_CUDA = 2


def cuda_place(x: object) -> str | None:
    """ "cuda:N" where x, a torch tensor or another library's array with DLPack, lies on CUDA device N; else None."""
    if is_torch(x):
        device: Any = x.device  # type: ignore[attr-defined]
        return f"cuda:{device.index or 0}" if device.type == "cuda" else None
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack_device__"):
        return None
    kind, number = x.__dlpack_device__()
    return f"cuda:{int(number)}" if int(kind) == _DLPACK_CUDA else None


def shared_tensor(x: Any, name: str) -> Any:
    """Another library's array on a GPU (CuPy, JAX, ...) as a torch tensor of the same memory; anything else as it is.

    Torch's current stream is made to wait for the work on x. Raises DtypeError.
    """
    if is_torch(x) or cuda_place(x) is None:
        return x
    import torch

    try:
        return torch.from_dlpack(x)  # type: ignore[attr-defined]
    except Exception as error:  # whatever a foreign producer raises
        raise DtypeError(f"{name} cannot be read through DLPack: {error}") from error


def like(x: Any, result: Any) -> Any:
    """result, a torch tensor, as an array of the library that x is of, on the same memory; where x is a GPU's array of
    a library without `__array_namespace__` and where x is on the CPU, as it is."""
    if is_torch(x) or cuda_place(x) is None or not hasattr(x, "__array_namespace__"):
        return result
    return x.__array_namespace__().from_dlpack(result)


def as_rows(x: Any, name: str, dim: int | None = None, device: str = "cpu") -> Any:
    """x as [rows, dim] with contiguous columns (copied only where they are not); dtype and device are kept.

    device: where an array may lie, besides the CPU; what another library holds there becomes a torch tensor.
    Raises DtypeError for anything but float32, float16 or bfloat16, ShapeError for another shape.
    """
    if not hasattr(x, "__dlpack__"):
        raise DtypeError(f"{name} is a {type(x).__name__}; pass a numpy array, a torch tensor or an object with DLPack")
    place = cuda_place(x)
    if place not in (None, device):
        raise DtypeError(f"{name} is on {place}, but this computes on the device {device!r}; move it there")
    x = shared_tensor(x, name)
    if not is_torch(x) and not isinstance(x, np.ndarray):
        try:
            x = np.from_dlpack(x)
        except Exception as error:  # whatever a foreign producer raises
            raise DtypeError(f"{name} cannot be read through DLPack: {error}") from error
    if is_torch(x):
        if x.is_sparse or x.is_nested or str(x.layout) != "torch.strided":
            raise DtypeError(f"{name} is not a plain dense tensor; pass {name}.to_dense()")
        x = x.detach().resolve_neg()
    elif isinstance(x, np.ma.MaskedArray):
        raise DtypeError(f"{name} is a masked array, and masks have no meaning here; fill it or drop the masked rows")
    if x.ndim != 2:
        raise ShapeError(f"{name} has shape {list(x.shape)}; expected [rows, {dim if dim is not None else 'dim'}]")
    if x.shape[1] == 0:
        raise ShapeError(f"{name} has rows of 0 values; expected at least 1")
    if dim is not None and x.shape[1] != dim:
        raise ShapeError(f"{name} has {x.shape[1]} values a row, expected {dim}")
    if is_torch(x):
        if str(x.dtype) not in ("torch.float32", "torch.float16", "torch.bfloat16"):
            raise DtypeError(f"{name} has dtype {x.dtype}; use float32, float16 or bfloat16")
        if x.device.type != "cpu" and str(x.device) != device:
            raise DtypeError(f"{name} is on {x.device}, but this computes on the device {device!r}; pass {name}.cpu()")
        return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
    if x.dtype not in _FLOATS:
        raise DtypeError(
            f"{name} has dtype {x.dtype}; use float32 or float16 (bfloat16 through torch), native byte order"
        )
    return x if x.strides[1] == x.itemsize and x.strides[0] % x.itemsize == 0 else np.ascontiguousarray(x)


def row_sample(x: Any, most: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """At most `most` rows of x, evenly spread, as float32 numpy [m, dim]."""
    step = max(1, x.shape[0] // most)
    return to_float32(x[::step][:most])


def to_float32(x: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """x as a float32 numpy array; no copy where it is one."""
    if is_torch(x):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x, np.float32)
