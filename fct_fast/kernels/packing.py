"""A TransformSpec as the bytes that the kernels read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.kernels import native
from fct_fast.kernels.int8 import Int8Layer, Int8Transform
from fct_fast.spec import Layer, TransformSpec

__all__ = ["int8_fields", "pack_int8", "pack_spec", "spec_fields"]


def pack_spec(spec: TransformSpec, precision: str = "fp32") -> npt.NDArray[np.uint8]:
    """uint8 [bytes]; relocatable, the same for every CPU level (the layout: csrc/core/packed_transform.hpp).

    precision: "fp32" or "bf16".
    """
    *numbers, branches, trunk = spec_fields(spec)
    packed: npt.NDArray[np.uint8] = native().pack(*numbers, precision, branches, trunk, _aligned_bytes)
    return packed


def pack_int8(transform: Int8Transform) -> npt.NDArray[np.uint8]:
    """The same of a transform that was quantised."""
    *numbers, branches, trunk = int8_fields(transform)
    packed: npt.NDArray[np.uint8] = native().pack(*numbers, "int8", branches, trunk, _aligned_bytes)
    return packed


def spec_fields(spec: TransformSpec) -> tuple[int, int, int, bool, bool, list[Any], list[Any]]:
    """What the compiled module wants to know of a spec; layers as (weight, bias, relu)."""
    branches = [(branch.input == "side", [_fields(layer) for layer in branch.layers]) for branch in spec.branches]
    trunk = [_fields(layer) for layer in spec.trunk]
    return spec.old_dim, spec.side_dim, spec.new_dim, spec.normalize, spec.uncertainty, branches, trunk


def int8_fields(transform: Int8Transform) -> tuple[int, int, int, bool, bool, list[Any], list[Any]]:
    """The same of a transform that was quantised; layers as (weight, bias, relu, scale or None, narrow, in_dim)."""
    spec = transform.spec
    branches = [(name == "side", [_int8_fields(layer) for layer in layers]) for name, layers in transform.branches]
    trunk = [_int8_fields(layer) for layer in transform.trunk]
    return spec.old_dim, spec.side_dim, spec.new_dim, spec.normalize, spec.uncertainty, branches, trunk


def _fields(layer: Layer) -> tuple[Any, Any, bool]:
    return np.ascontiguousarray(layer.weight), np.ascontiguousarray(layer.bias), layer.relu


def _int8_fields(layer: Int8Layer) -> tuple[Any, ...]:
    weight = layer.weight if layer.scale is None else layer.weight.reshape(-1)
    numbers = np.ascontiguousarray(weight), np.ascontiguousarray(layer.bias)
    return *numbers, layer.relu, layer.scale, layer.narrow, layer.weight.shape[1]


def _aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """numpy aligns to 16 bytes; a panel row should not straddle two cache lines."""
    memory = np.empty(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
