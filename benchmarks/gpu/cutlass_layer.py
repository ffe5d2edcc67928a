"""CUTLASS's form of a layer (csrc/cuda/second_opinion/layer.h), called through ctypes, and h made of such layers."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast.spec import TransformSpec

__all__ = ["CutlassChain", "CutlassLayer", "LayerCall"]

_DTYPES = {torch.float16: 1, torch.bfloat16: 2}


class LayerCall(ctypes.Structure):
    """FctSecondLayer of layer.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("y_stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("in_dim", ctypes.c_int32),
        ("out_dim", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    )


class _Error(ctypes.Structure):
    """FctCudaError of abi.h."""

    _fields_ = (("cuda_error", ctypes.c_int32), ("message", ctypes.c_char * 508))


class CutlassLayer:
    """y = x weight' + bias, then ReLU where asked for, on tensors of one GPU; x and y may be columns of wider rows."""

    def __init__(self, library: Path) -> None:
        self._run: Callable[..., int] = ctypes.CDLL(str(library)).fct_second_opinion_layer

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, relu: bool) -> None:
        if bias.dtype != torch.float32 or not weight.is_contiguous():
            raise SystemExit("a layer takes a bias in float32 and a weight of contiguous rows")
        call = LayerCall(
            x=x.data_ptr(),
            weight=weight.data_ptr(),
            bias=bias.data_ptr(),
            y=y.data_ptr(),
            x_stride=x.stride(0),
            y_stride=y.stride(0),
            rows=x.shape[0],
            in_dim=x.shape[1],
            out_dim=weight.shape[0],
            dtype=_DTYPES[x.dtype],
            relu=relu,
            device=x.device.index or 0,
            stream=torch.cuda.current_stream(x.device).cuda_stream,
        )
        error = _Error()
        if self._run(ctypes.byref(call), ctypes.byref(error)):
            raise SystemExit(error.message.decode(errors="replace"))


class CutlassChain:
    """h layer by layer: branches write columns of one buffer, so nothing is concatenated; unit rows by torch."""

    def __init__(
        self, layer: Callable[..., None], spec: TransformSpec, rows: int, dtype: torch.dtype, device: str = "cuda"
    ) -> None:
        self._layer = layer
        self._weights = [
            (torch.from_numpy(x.weight).to(device, dtype), torch.from_numpy(x.bias).to(device), x.relu)
            for _, x in spec.named_layers()
        ]
        self._counts = list(itertools.accumulate((len(branch.layers) for branch in spec.branches), initial=0))
        self._inputs = [branch.input for branch in spec.branches]
        self._trunk_dim = spec.trunk[0].weight.shape[1]
        self._empty = lambda dim: torch.empty(rows, dim, device=device, dtype=dtype)

    def __call__(self, old: Tensor, side: Tensor) -> Tensor:
        trunk = self._empty(self._trunk_dim)
        column = 0
        for i, name in enumerate(self._inputs):
            weights = self._weights[self._counts[i] : self._counts[i + 1]]
            width = len(weights[-1][1])
            self._stack(old if name == "old" else side, weights, trunk[:, column : column + width])
            column += width
        weights = self._weights[self._counts[-1] :]
        out = self._empty(len(weights[-1][1]))
        self._stack(trunk, weights, out)
        return F.normalize(out.float())

    def _stack(self, x: Tensor, weights: list[tuple[Tensor, Tensor, bool]], target: Tensor) -> None:
        for i, (weight, bias, relu) in enumerate(weights):
            y = target if i + 1 == len(weights) else self._empty(len(bias))
            self._layer(x, weight, bias, y, relu)
            x = y
