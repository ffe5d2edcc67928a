"""ForwardTransform: the forward transformation h as a torch module; trainable, and the oracle of the kernels.

Architecture of the FCT paper (Ramanujan et al., CVPR 2022): one branch a stored input, each linear -> BatchNorm -> ReLU
twice, then concatenation and a trunk of linear -> BatchNorm -> ReLU twice and a last linear layer with bias.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fct_fast.errors import ShapeError
from fct_fast.space import SpaceFingerprint
from fct_fast.spec import Branch, BranchInput, Layer, TransformSpec

__all__ = ["ForwardTransform"]


class ForwardTransform(nn.Module):
    """h: (old [n, old_dim], side [n, side_dim]) -> new [n, new_dim].

    old_dim, new_dim, side_dim: widths of the stored embedding, of the new space and of the side-information (0: none).
    inner_dim: width of the trunk. normalize: L2-normalise the output. uncertainty: one more output, FastFill's
    log-uncertainty s (Jaeckle et al., ICLR 2023). Raises ShapeError for widths below 1 (side_dim below 0).
    """

    def __init__(
        self,
        old_dim: int,
        new_dim: int,
        side_dim: int = 0,
        inner_dim: int = 2048,
        normalize: bool = True,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        if min(old_dim, new_dim, inner_dim) < 1 or side_dim < 0:
            raise ShapeError(
                f"ForwardTransform needs old_dim, new_dim and inner_dim >= 1 and side_dim >= 0, "
                f"got {old_dim}, {new_dim}, {inner_dim} and {side_dim}"
            )
        widths: dict[BranchInput, int] = {"old": old_dim}
        if side_dim:
            widths["side"] = side_dim
        branches = [[(2 * dim, dim), (2 * new_dim, 2 * dim)] for dim in widths.values()]
        concat = 2 * new_dim * len(widths)
        trunk = [(inner_dim, concat), (inner_dim, inner_dim), (new_dim + int(uncertainty), inner_dim)]
        self._build(old_dim, side_dim, new_dim, normalize, uncertainty, tuple(widths), branches, trunk)

    def _build(
        self,
        old_dim: int,
        side_dim: int,
        new_dim: int,
        normalize: bool,
        uncertainty: bool,
        branch_inputs: tuple[BranchInput, ...],
        branches: list[list[tuple[int, int]]],
        trunk: list[tuple[int, int]],
    ) -> None:
        """Create the modules; a layer is given as (out_dim, in_dim)."""
        self.old_dim, self.side_dim, self.new_dim = old_dim, side_dim, new_dim
        self.normalize, self.uncertainty = normalize, uncertainty
        self.branch_inputs = branch_inputs
        self.spaces: dict[str, SpaceFingerprint] = {}  # of "old", "side" and "new", where h came from a bundle or a fit
        self.branches = nn.ModuleList(nn.Sequential(*(_Hidden(o, i) for o, i in layers)) for layers in branches)
        self.trunk = nn.Sequential(*(_Hidden(o, i) for o, i in trunk[:-1]), nn.Linear(trunk[-1][1], trunk[-1][0]))

    def raw(self, old: Tensor, side: Tensor | None = None) -> Tensor:
        """The output before normalisation, [n, new_dim] (or [n, new_dim + 1], s last): what losses and heads read."""
        inputs = {"old": _checked("old", old, self.old_dim)}
        if self.side_dim:
            if side is None:
                raise ShapeError(
                    f"this transform needs side-information of {self.side_dim} values a row; side is missing"
                )
            inputs["side"] = _checked("side", side, self.side_dim)
            if side.shape[0] != old.shape[0]:
                raise ShapeError(f"old has {old.shape[0]} rows and side has {side.shape[0]}; they must pair up")
        elif side is not None:
            raise ShapeError("this transform was built without side-information (side_dim = 0) but side was given")
        parts = [branch(inputs[name]) for name, branch in zip(self.branch_inputs, self.branches, strict=True)]
        out: Tensor = self.trunk(torch.cat(parts, dim=1))
        return out

    def forward(
        self, old: Tensor, side: Tensor | None = None, return_uncertainty: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[n, old_dim], [n, side_dim] -> new [n, new_dim]; with `return_uncertainty` also s [n]."""
        if return_uncertainty and not self.uncertainty:
            raise ShapeError("this transform has no uncertainty head; build it with uncertainty=True")
        out = self.raw(old, side)
        new = out[:, : self.new_dim]
        if self.normalize:
            new = _unit_rows(new)
        return (new, out[:, self.new_dim]) if return_uncertainty else new

    def to_spec(self) -> TransformSpec:
        """Fold BatchNorm (its running statistics) into the linear layers, in float64, rounded once to float32."""
        return TransformSpec(
            old_dim=self.old_dim,
            side_dim=self.side_dim,
            new_dim=self.new_dim,
            branches=tuple(
                Branch(name, tuple(_folded(layer) for layer in branch.children()))
                for name, branch in zip(self.branch_inputs, self.branches, strict=True)
            ),
            trunk=tuple(_folded(layer) for layer in self.trunk),
            normalize=self.normalize,
            uncertainty=self.uncertainty,
        )

    @classmethod
    def from_spec(cls, spec: TransformSpec) -> ForwardTransform:
        """A module in eval mode that computes the same function; BatchNorm is the identity plus the folded bias.

        `from_spec(spec).to_spec() == spec`, bit for bit.
        """
        h = cls.__new__(cls)
        nn.Module.__init__(h)
        with torch.device("meta"):  # no random weights that would be overwritten, and no use of the random state
            h._build(
                spec.old_dim,
                spec.side_dim,
                spec.new_dim,
                spec.normalize,
                spec.uncertainty,
                tuple(branch.input for branch in spec.branches),
                [[(layer.out_dim, layer.in_dim) for layer in branch.layers] for branch in spec.branches],
                [(layer.out_dim, layer.in_dim) for layer in spec.trunk],
            )
        h.to_empty(device="cpu")
        for branch, module in zip(spec.branches, h.branches, strict=True):
            for layer, hidden in zip(branch.layers, module.children(), strict=True):
                _load_folded(hidden, layer)
        for layer, hidden in zip(spec.trunk, h.trunk, strict=True):
            _load_folded(hidden, layer)
        return h.eval()


class _Hidden(nn.Module):
    """linear (no bias) -> BatchNorm -> ReLU; `relu` is data, since a spec may hold plain linear layers too."""

    def __init__(self, out_dim: int, in_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.norm = nn.BatchNorm1d(out_dim)
        self.relu = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.linear(x))
        return torch.relu(x) if self.relu else x


def _checked(name: str, x: Tensor, dim: int) -> Tensor:
    if x.ndim != 2 or x.shape[1] != dim:
        raise ShapeError(f"{name} must be [rows, {dim}], got {list(x.shape)}")
    return x


def _unit_rows(x: Tensor) -> Tensor:
    """L2-normalise rows; scaled by the row's largest element first, since F.normalize zeroes rows of huge norm."""
    largest = x.abs().amax(dim=1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, torch.ones_like(largest))
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(norm > 0, norm, torch.ones_like(norm))


def _folded(module: nn.Module) -> Layer:
    if isinstance(module, nn.Linear):
        return Layer(_numpy(module.weight), _numpy(module.bias), relu=False)
    assert isinstance(module, _Hidden)
    norm = module.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = module.linear.weight.double() * scale[:, None]
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return Layer(_numpy(weight), _numpy(bias), relu=module.relu)


def _load_folded(module: nn.Module, layer: Layer) -> None:
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            if layer.relu:
                raise ShapeError("the last trunk layer of a ForwardTransform is linear, but this spec has ReLU there")
            module.weight.copy_(torch.from_numpy(layer.weight))
            module.bias.copy_(torch.from_numpy(layer.bias))
            return
        assert isinstance(module, _Hidden)
        module.relu = layer.relu
        module.norm.reset_parameters()
        module.norm.eps = 0.0  # running_var is 1, so that folding again multiplies by exactly 1
        module.linear.weight.copy_(torch.from_numpy(layer.weight))
        module.norm.bias.copy_(torch.from_numpy(layer.bias))


def _numpy(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = x.detach().cpu().float().contiguous().numpy().copy()
    return array
