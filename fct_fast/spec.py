"""TransformSpec: the forward transformation h as plain data, BatchNorm folded.

A spec says: run each branch (a stack of linear + ReLU layers on `old` or on `side`), concatenate the results, run the
trunk, and L2-normalise. The paper's h (FCT, CVPR 2022) is two branches of two layers and a trunk of three; a ridge map
is branches without layers and a trunk of one. A bundle stores a spec, and a kernel packs one. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError

__all__ = ["Branch", "BranchInput", "Layer", "TransformSpec"]

BranchInput = Literal["old", "side"]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer: y = x @ weight.T + bias, then ReLU where `relu` is set.

    weight: float32 [out_dim, in_dim]; bias: float32 [out_dim].
    """

    weight: F32
    bias: F32
    relu: bool

    @property
    def in_dim(self) -> int:
        return int(self.weight.shape[1])

    @property
    def out_dim(self) -> int:
        return int(self.weight.shape[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        return (
            self.relu == other.relu
            and np.array_equal(self.weight, other.weight)
            and np.array_equal(self.bias, other.bias)
        )


@dataclass(frozen=True)
class Branch:
    """A stack of layers on one input; no layers means that the input goes into the concatenation as it is."""

    input: BranchInput
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class TransformSpec:
    """h as data. See the module's docstring.

    Raises ShapeError where layers do not chain, NonFiniteError where a weight is NaN or Inf, ConfigError where the
    structure makes no sense.
    """

    old_dim: int
    side_dim: int
    new_dim: int
    branches: tuple[Branch, ...]
    trunk: tuple[Layer, ...]
    normalize: bool = True
    uncertainty: bool = False

    def __post_init__(self) -> None:
        if self.old_dim < 1 or self.new_dim < 1 or self.side_dim < 0:
            raise ShapeError(
                f"a transform needs old_dim >= 1, new_dim >= 1 and side_dim >= 0, "
                f"got {self.old_dim}, {self.new_dim} and {self.side_dim}"
            )
        if not self.branches or not self.trunk:
            raise ConfigError("a transform needs at least one branch and one trunk layer")
        inputs = {branch.input for branch in self.branches}
        if not inputs <= {"old", "side"}:
            raise ConfigError(f"a branch reads 'old' or 'side', got {sorted(inputs)}")
        if ("side" in inputs) != (self.side_dim > 0):
            raise ConfigError(f"side_dim is {self.side_dim} but the branches read {sorted(inputs)}")
        for name, layer in self.named_layers():
            _check_layer(name, layer)
        for b, branch in enumerate(self.branches):
            _check_chain(f"branch {b} ({branch.input})", self.input_dim(branch.input), branch.layers)
        width = _check_chain("trunk", self.concat_dim, self.trunk)
        if width != self.out_dim:
            raise ShapeError(
                f"the trunk ends with {width} outputs; new_dim {self.new_dim}"
                f"{' plus the uncertainty row' if self.uncertainty else ''} needs {self.out_dim}"
            )

    @property
    def out_dim(self) -> int:
        """Rows of the last layer: new_dim, and one more with the uncertainty head."""
        return self.new_dim + int(self.uncertainty)

    @property
    def concat_dim(self) -> int:
        return sum(b.layers[-1].out_dim if b.layers else self.input_dim(b.input) for b in self.branches)

    @property
    def flops_per_row(self) -> int:
        """Multiplies and adds of one row (two per weight)."""
        return 2 * sum(layer.weight.size for _, layer in self.named_layers())

    def input_dim(self, name: BranchInput) -> int:
        return self.old_dim if name == "old" else self.side_dim

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Layers in the order of the file format: branches.0.0, branches.0.1, ..., trunk.0, ..."""
        for b, branch in enumerate(self.branches):
            for i, layer in enumerate(branch.layers):
                yield f"branches.{b}.{i}", layer
        for i, layer in enumerate(self.trunk):
            yield f"trunk.{i}", layer

    def apply_float64(
        self, old: npt.ArrayLike, side: npt.ArrayLike | None = None, *, normalize: bool | None = None
    ) -> F64:
        """The plain float64 meaning of h, for tests and verification: [n, old_dim], [n, side_dim] -> [n, out_dim].

        Zero rows stay zero. `normalize` overrides the spec's own setting. Raises ShapeError where rows do not fit.
        """
        if (side is None) != (self.side_dim == 0):
            raise ShapeError(f"side_dim is {self.side_dim}, but side was {'not ' if side is None else ''}given")
        inputs = {"old": np.asarray(old, np.float64)}
        if side is not None:
            inputs["side"] = np.asarray(side, np.float64)
        for name, x in inputs.items():
            dim = self.old_dim if name == "old" else self.side_dim
            if x.ndim != 2 or x.shape != (len(inputs["old"]), dim):
                raise ShapeError(f"{name} must be [rows, {dim}] with as many rows as old, got {list(x.shape)}")
        x = np.concatenate([_run(branch.layers, inputs[branch.input]) for branch in self.branches], axis=1)
        x = _run(self.trunk, x)
        if self.normalize if normalize is None else normalize:
            vectors = x[:, : self.new_dim]
            norm = np.linalg.norm(vectors, axis=1, keepdims=True)
            np.divide(vectors, norm, out=vectors, where=norm > 0)
        return x


def _run(layers: tuple[Layer, ...], x: F64) -> F64:
    for layer in layers:
        x = x @ layer.weight.T.astype(np.float64) + layer.bias
        if layer.relu:
            x = np.maximum(x, 0)
    return x


def _check_layer(name: str, layer: Layer) -> None:
    if layer.weight.ndim != 2 or layer.bias.shape != layer.weight.shape[:1] or 0 in layer.weight.shape:
        raise ShapeError(
            f"layer {name} has weight {layer.weight.shape} and bias {layer.bias.shape}; want [out, in], [out]"
        )
    if layer.weight.dtype != np.float32 or layer.bias.dtype != np.float32:
        raise ShapeError(f"layer {name} has {layer.weight.dtype} weights and {layer.bias.dtype} bias; want float32")
    if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
        raise NonFiniteError(f"layer {name} holds NaN or Inf; the training of this transform went wrong")


def _check_chain(where: str, in_dim: int, layers: tuple[Layer, ...]) -> int:
    for i, layer in enumerate(layers):
        if layer.in_dim != in_dim:
            raise ShapeError(f"{where}, layer {i} reads {layer.in_dim} values but is given {in_dim}")
        in_dim = layer.out_dim
    return in_dim
