"""Transforms that other code trained: the checkpoints of apple/ml-fct (FCT, CVPR 2022) and of its FastFill version.

Written from the names and shapes of its modules: `MLP_BN_SIDE_PROJECTION` has the branches `p1` (old) and `p2`
(side-information) and the trunk `mixer`, each layer a 1x1 convolution `conv` and a BatchNorm `normalizer`, the last
layer of the trunk a convolution with bias alone. `MLP_BN_SIDE_PROJECTION_SIGMA` (FastFill, ICLR 2023) adds
`uncertainty_head`, a linear layer on the output. Only plain tensors are taken here; unpickling is the caller's risk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fct_fast.errors import BundleError, NonFiniteError, ShapeError
from fct_fast.transform import ForwardTransform

__all__ = ["from_ml_fct"]

_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_NORM = ("weight", "bias", "running_mean", "running_var")
_HIDDEN = ("p1.0", "p1.1", "p2.0", "p2.1", "mixer.0", "mixer.1")
_REQUIRED = {
    *(f"{layer}.conv.weight" for layer in _HIDDEN),
    *(f"{layer}.normalizer.{part}" for layer in _HIDDEN for part in _NORM),
    "mixer.2.conv.weight",
    "mixer.2.conv.bias",
}
_HEAD = {"uncertainty_head.weight", "uncertainty_head.bias"}
_IGNORED = {f"{layer}.normalizer.num_batches_tracked" for layer in _HIDDEN}


def from_ml_fct(
    state_dict: Mapping[str, Any], normalize: bool = True, *, side_is_old: bool = False
) -> ForwardTransform:
    """The transform of an apple/ml-fct state dict, in eval mode and float32.

    state_dict: name -> torch tensor or numpy array; convolution weights [out, in, 1, 1] (or [out, in]); names may carry
    the prefix `module.`. normalize: L2-normalise the output (ml-fct itself does not, and compares by L2 distance).
    side_is_old: for a transform trained without side-information, where ml-fct feeds the old embedding into both
    branches; the result then has side_dim 0. With FastFill's head of one output, the result has the uncertainty s.

    Raises BundleError for names that are missing, unknown or no tensors, ShapeError for shapes that do not fit
    together, NonFiniteError for NaN, Inf or a negative variance.
    """
    tensors = _named_tensors(state_dict)
    has_head = "uncertainty_head.weight" in tensors
    _check_names(set(tensors), _REQUIRED | (_HEAD if has_head else set()))
    old_dim, side_dim = tensors["p1.0.conv.weight"].shape[1], tensors["p2.0.conv.weight"].shape[1]
    new_dim, inner_dim = tensors["mixer.2.conv.weight"].shape[0], tensors["mixer.0.conv.weight"].shape[0]
    if side_is_old and side_dim != old_dim:
        raise ShapeError(
            f"side_is_old needs both branches to read the old embedding, but they read {old_dim} and {side_dim}"
        )
    h = ForwardTransform(old_dim, new_dim, side_dim, inner_dim, normalize, uncertainty=has_head)
    stacks = {"p1": h.branches[0], "p2": h.branches[1], "mixer": h.trunk}
    with torch.no_grad():
        for name in _HIDDEN:
            stack, index = name.split(".")
            layer: Any = list(stacks[stack].children())[int(index)]
            _fill(layer.linear.weight, tensors, f"{name}.conv.weight")
            for part in _NORM:
                _fill(getattr(layer.norm, part), tensors, f"{name}.normalizer.{part}")
        last = h.trunk[-1]
        assert isinstance(last, nn.Linear)
        _fill(last.weight[:new_dim], tensors, "mixer.2.conv.weight")
        _fill(last.bias[:new_dim], tensors, "mixer.2.conv.bias")
        if has_head:
            _fold_head(last, tensors, new_dim)
    if side_is_old:
        h.side_dim, h.branch_inputs = 0, ("old", "old")
    return h.eval()


def _fold_head(last: nn.Linear, tensors: dict[str, Tensor], new_dim: int) -> None:
    """The head is linear in the output, which is linear in the last hidden layer: one more row of the last layer."""
    weight = tensors["uncertainty_head.weight"]
    if weight.shape != (1, new_dim):
        raise ShapeError(
            f"uncertainty_head.weight is {list(weight.shape)}; "
            f"only a head of one output, [1, {new_dim}], can be imported"
        )
    bias = torch.empty(1)
    _fill(bias, tensors, "uncertainty_head.bias")
    head = weight.double()
    last.weight[new_dim:] = (head @ last.weight[:new_dim].double()).float()
    last.bias[new_dim:] = (head @ last.bias[:new_dim].double() + bias.double()).float()


def _named_tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names without wrappers' prefixes -> finite float32 tensors, 1x1 convolutions as matrices."""
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise BundleError(
            f"a state dict maps names to tensors, got {type(state_dict).__name__}; call .state_dict() first"
        )
    tensors: dict[str, Tensor] = {}
    for full_name, value in state_dict.items():
        name = str(full_name)
        while name.startswith(_WRAPPERS):
            name = name.split(".", 1)[1]
        if name in _IGNORED:
            continue
        try:
            tensor = torch.as_tensor(value).detach().to("cpu", torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise BundleError(
                f"{full_name!r:.80} is no tensor but {type(value).__name__}; "
                f"pass the state dict of the transform itself"
            ) from None
        if name.endswith("conv.weight") and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        if name.endswith("weight") and not name.endswith("normalizer.weight") and tensor.ndim != 2:
            raise ShapeError(f"{name} is {list(tensor.shape)}; a 1x1 convolution [out, in, 1, 1] or a matrix is needed")
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{name} holds NaN or Inf; the training of this transform went wrong")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise NonFiniteError(f"{name} holds a negative variance; the file is damaged")
        tensors[name] = tensor
    return tensors


def _check_names(names: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - names):
        raise BundleError(
            f"this is not a state dict of ml-fct's MLP_BN_SIDE_PROJECTION: {missing[0]} is missing "
            f"({len(missing)} of {len(wanted)} names are)"
        )
    if unknown := sorted(names - wanted):
        raise BundleError(f"the state dict holds {unknown[0]!r:.80}, which MLP_BN_SIDE_PROJECTION does not have")


def _fill(target: Tensor, tensors: dict[str, Tensor], name: str) -> None:
    source = tensors[name]
    if source.shape != target.shape:
        raise ShapeError(f"{name} is {list(source.shape)}, but the other layers ask for {list(target.shape)}")
    target.copy_(source)
