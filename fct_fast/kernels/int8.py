"""int8 upgrade: how a transform is quantised, and in NumPy what the kernels compute of it, bit for bit.

Layers read float32 or uint8. uint8: a layer whose inputs all come out of layers with ReLU; activation k stands for
s_k q_k, where s_k is the largest value of that channel over calibration rows, times HEADROOM, divided by 255 (for
s > 0, relu(s x) = s relu(x), so scales move freely through ReLU). Branch inputs and the last output stay float32.
`quantized` folds all scales into the layers: s_k into the weights that read the channel and 1 / s_o into the layer that
writes it. Weights of a uint8 layer are rounded to -127 .. 127 with one scale an output channel.

What is computed, the same at every CPU level (each float32 operation rounded half to even, none fused):
  uint8 layer:   sum = sum_k q_k w_k in int32, exact in any order;  y = float32(sum) * scale + bias
  float32 layer: products and sums in order, k ascending within runs of 128, runs ascending;  y = total + bias
  to uint8:      q = round_half_even(min(max(y, 0), 255)), NaN gives 0.  ReLU is the lower end of it
  to float32:    y, then ReLU where the layer has it
  unit rows:     squares summed in float64, column c into sum c mod 4, in order; columns past the last multiple of 4
                 go one by one after (s0 + s1) + (s2 + s3);  float32(y * (1 / sqrt(total)))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError
from fct_fast.kernels.arrays import to_float32
from fct_fast.spec import BranchInput, Layer, TransformSpec

__all__ = ["Int8Layer", "Int8Transform", "activation_maxima", "calibrated", "quantized"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

STEPS = 255
MAX_DEPTH = (2**31 - 1) // (STEPS * 127)  # of a uint8 layer, so that int32 holds every sum
DEPTH_RUN = 128  # kDepthRun of csrc/cpu/kernel_table.hpp
# Other rows go beyond the maxima of the calibration rows, and what is cut off there costs more than coarser steps do.
HEADROOM = 1.25
# A channel's maximum counts as at least this share of its layer's largest: one that was silent over the calibration
# rows may still fire later, and 1 / s must stay finite.
LEAST_SHARE = 2.0**-24
CALIBRATION_ROWS = 4096  # at once


@dataclass(frozen=True, eq=False)
class Int8Layer:
    """weight: int8 [out, in] where the layer reads uint8, else float32. scale: float32 [out] of a uint8 layer, else
    None. bias: float32 [out]. relu: of the layer. narrow: it writes uint8."""

    weight: npt.NDArray[np.int8] | F32
    scale: F32 | None
    bias: F32
    relu: bool
    narrow: bool


@dataclass(frozen=True, eq=False)
class Int8Transform:
    """A transform with its scales folded in; see `quantized`."""

    spec: TransformSpec
    branches: tuple[tuple[BranchInput, tuple[Int8Layer, ...]], ...]
    trunk: tuple[Int8Layer, ...]

    def apply(self, old: npt.ArrayLike, side: npt.ArrayLike | None = None) -> F32:
        """What every kernel must give, bit for bit: [n, old_dim], [n, side_dim] -> float32 [n, out_dim], unit rows
        where the spec normalises. Finite rows only; a row without a norm becomes zeros."""
        inputs = {"old": np.asarray(old, np.float32), "side": None if side is None else np.asarray(side, np.float32)}
        with np.errstate(all="ignore"):
            parts = [_run(layers, inputs[name]) for name, layers in self.branches]
            y: F32 = _run(self.trunk, np.concatenate(parts, axis=1))
            if self.spec.normalize:
                new = y[:, : self.spec.new_dim]
                norm = np.sqrt(_squares(new))[:, None]
                unit = (new.astype(np.float64) * (1 / norm)).astype(np.float32)
                y[:, : self.spec.new_dim] = np.where(norm < np.finfo(np.float32).tiny, np.float32(0), unit)
        return y


def quantized(spec: TransformSpec, maxima: Mapping[str, Any]) -> Int8Transform:
    """The int8 form of a transform.

    maxima: {layer name: largest output of each channel} of the layers with ReLU, as in a bundle's `activation_max`.
    Raises ConfigError where the scales do not fit the transform, or where nothing could be quantised; ShapeError where
    a layer is too deep for int32 sums.
    """
    reads = _narrow_inputs(spec)
    if not any(reads.values()):
        raise ConfigError(
            "precision 'int8' has nothing to quantise here, since no layer reads the output of a ReLU; use 'fp32'"
        )
    steps = {name: _steps(name, layer, maxima) for name, layer in spec.named_layers() if layer.relu}
    branches, incoming = [], []
    for b, branch in enumerate(spec.branches):
        layers, step = _folded(f"branches.{b}", branch.layers, None, reads, steps, reads["trunk.0"])
        branches.append((branch.input, layers))
        incoming.append(step)
    joined = np.concatenate([step for step in incoming if step is not None]) if reads["trunk.0"] else None
    trunk, _ = _folded("trunk", spec.trunk, joined, reads, steps, False)
    return Int8Transform(spec, tuple(branches), trunk)


def calibrated(spec: TransformSpec, scales: Mapping[str, Any], calibration: tuple[Any, Any] | None) -> Int8Transform:
    """`quantized` by calibration rows (old [n, old_dim], side [n, side_dim] or None), else by a bundle's scales.

    Raises ConfigError where there are neither, NonFiniteError for rows with NaN or Inf."""
    if calibration is not None:
        if not isinstance(calibration, (tuple, list)) or len(calibration) != 2:
            raise ConfigError("calibration is a pair of rows, (old, side); side is None where h reads none")
        return quantized(spec, activation_maxima(spec, *calibration))
    if not scales and any(_narrow_inputs(spec).values()):
        raise ConfigError(
            "precision 'int8' needs activation scales, and this transform brings none; give calibration=(old, side) "
            "with some hundred rows of the gallery, or a bundle saved from a fit"
        )
    return quantized(spec, scales.get("activation_max", {}))


def activation_maxima(spec: TransformSpec, old: Any, side: Any = None) -> dict[str, list[float]]:
    """{layer name: largest output of each channel} of the layers with ReLU over rows, float32 throughout."""
    rows = [None if x is None else _calibration_rows(x) for x in (old, side)]
    assert rows[0] is not None
    if len(rows[0]) == 0 or (rows[1] is not None and len(rows[1]) != len(rows[0])):
        raise ConfigError("calibration needs at least one row, and as many rows of side as of old")
    if (rows[1] is None) != (spec.side_dim == 0):
        raise ShapeError(f"side_dim is {spec.side_dim}, but calibration has {'no' if rows[1] is None else 'a'} side")
    for name, x, dim in (("old", rows[0], spec.old_dim), ("side", rows[1], spec.side_dim)):
        if x is not None and x.shape[1:] != (dim,):
            raise ShapeError(f"{name} of calibration must be [rows, {dim}], got {list(x.shape)}")
    maxima: dict[str, F32] = {}
    for start in range(0, len(rows[0]), CALIBRATION_ROWS):
        chunks = (None if x is None else x[start : start + CALIBRATION_ROWS] for x in rows)
        part = dict(zip(("old", "side"), chunks, strict=True))
        for name, output in _hidden_outputs(spec, part):
            largest = output.max(axis=0)
            maxima[name] = np.maximum(maxima.get(name, largest), largest)
    if not all(np.isfinite(largest).all() for largest in maxima.values()):
        raise NonFiniteError("calibration rows hold NaN or Inf, or overflow a hidden layer; leave such rows out")
    return {name: largest.tolist() for name, largest in maxima.items()}


def _calibration_rows(x: Any) -> F32:
    rows = to_float32(x)
    if rows.ndim != 2:
        raise ShapeError(f"calibration rows must be [rows, dim], got {list(rows.shape)}")
    return rows


def _hidden_outputs(spec: TransformSpec, inputs: Mapping[str, F32 | None]) -> Iterator[tuple[str, F32]]:
    parts = []
    for b, branch in enumerate(spec.branches):
        x: Any = inputs[branch.input]
        for i, layer in enumerate(branch.layers):
            x = x @ layer.weight.T + layer.bias
            if layer.relu:
                x = np.maximum(x, 0)
                yield f"branches.{b}.{i}", x
        parts.append(x)
    x = np.concatenate(parts, axis=1)
    for i, layer in enumerate(spec.trunk):
        x = x @ layer.weight.T + layer.bias
        if layer.relu:
            x = np.maximum(x, 0)
            yield f"trunk.{i}", x


def _narrow_inputs(spec: TransformSpec) -> dict[str, bool]:
    """{layer name: it reads uint8}."""
    reads: dict[str, bool] = {}
    joined = True
    for b, branch in enumerate(spec.branches):
        before = False
        for i, layer in enumerate(branch.layers):
            reads[f"branches.{b}.{i}"] = before
            before = layer.relu
        joined = joined and before
    before = joined
    for i, layer in enumerate(spec.trunk):
        reads[f"trunk.{i}"] = before
        before = layer.relu
    return reads


def _steps(name: str, layer: Layer, maxima: Mapping[str, Any]) -> F64:
    """s of each channel: what one step of its uint8 activation stands for."""
    try:
        largest = np.asarray(maxima[name], np.float64)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"the int8 scales lack the layer {name}; give calibration=(old, side) instead") from None
    if largest.shape != (layer.out_dim,) or not (np.isfinite(largest).all() and (largest >= 0).all()):
        raise ConfigError(
            f"the int8 scales of layer {name} must be {layer.out_dim} finite numbers, none below zero; "
            f"give calibration=(old, side) instead"
        )
    top = float(largest.max())
    # A silent layer has no scale of its own.
    return np.where(largest > 0, np.maximum(largest, top * LEAST_SHARE), top if top > 0 else 1.0) * (HEADROOM / STEPS)


def _folded(
    where: str,
    layers: tuple[Layer, ...],
    incoming: F64 | None,
    reads: Mapping[str, bool],
    steps: Mapping[str, F64],
    narrow_end: bool,
) -> tuple[tuple[Int8Layer, ...], F64 | None]:
    """The layers of a stack that is given uint8 of these steps, or float32 (None); and the steps of what it gives."""
    folded = []
    for i, layer in enumerate(layers):
        name = f"{where}.{i}"
        narrow = reads[f"{where}.{i + 1}"] if i + 1 < len(layers) else narrow_end
        outgoing = steps[name] if narrow else None
        folded.append(_int8_layer(name, layer, incoming, outgoing))
        incoming = outgoing
    return tuple(folded), incoming


def _int8_layer(name: str, layer: Layer, incoming: F64 | None, outgoing: F64 | None) -> Int8Layer:
    out = np.ones(layer.out_dim) if outgoing is None else outgoing
    weight, scale = layer.weight.astype(np.float64), None
    with np.errstate(over="ignore"):
        bias = (layer.bias / out).astype(np.float32)
        if incoming is None:
            made: Any = (weight / out[:, None]).astype(np.float32)
            numbers = [made, bias]
        else:
            if layer.in_dim > MAX_DEPTH:
                raise ShapeError(f"layer {name} reads {layer.in_dim} values; int8 sums up to {MAX_DEPTH}; use 'fp32'")
            weight = weight * incoming
            unit = np.abs(weight).max(axis=1) / 127
            made = np.rint(weight / np.where(unit > 0, unit, 1)[:, None]).clip(-127, 127).astype(np.int8)
            scale = (unit / out).astype(np.float32)
            numbers = [scale, bias]
    if not all(np.isfinite(x).all() for x in numbers):
        raise ConfigError(
            f"the int8 scales of layer {name} are too small for its weights: their ratio leaves float32; "
            f"give calibration=(old, side) rows like those of the gallery"
        )
    return Int8Layer(made, scale, bias, layer.relu, outgoing is not None)


def _run(layers: tuple[Int8Layer, ...], x: Any) -> Any:
    for layer in layers:
        if layer.scale is None:
            y = _ordered_product(x, layer.weight) + layer.bias
        else:
            # Whole numbers below 2^53: exact in float64 in any order; then rounded once, as int32 to float32 is.
            total = x.astype(np.float64) @ layer.weight.T.astype(np.float64)
            y = total.astype(np.float32) * layer.scale + layer.bias
        if layer.narrow:
            # fmax and fmin prefer a number to NaN.
            x = np.rint(np.fmin(np.fmax(y, np.float32(0)), np.float32(STEPS))).astype(np.uint8)
        else:
            x = np.where(y < 0, np.float32(0), y) if layer.relu else y
    return x


def _ordered_product(x: F32, weight: Any) -> F32:
    """x [n, k], weight [out, k] -> [n, out]: each product and sum rounded, k ascending within runs, runs ascending."""
    depth = weight.shape[1]
    total = None
    for start in range(0, depth, DEPTH_RUN):
        run = np.zeros((len(x), len(weight)), np.float32)
        for k in range(start, min(start + DEPTH_RUN, depth)):
            run += x[:, k : k + 1] * weight[:, k]
        total = run if total is None else total + run
    assert total is not None
    return total


def _squares(x: F32) -> F64:
    wide = x.astype(np.float64)
    lanes, whole = np.zeros((4, len(x))), x.shape[1] // 4 * 4
    for c in range(whole):
        lanes[c % 4] += wide[:, c] * wide[:, c]
    total: F64 = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
    for c in range(whole, x.shape[1]):
        total = total + wide[:, c] * wide[:, c]
    return total
