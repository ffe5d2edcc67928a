"""The residual MLP: a linear map plus a small network that corrects it (Drift-Adapter, arXiv 2509.23471; ReLU in the
place of its GELU, so that the fused kernels run it)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fct_fast.spec import Branch, Layer, TransformSpec

__all__ = ["ResidualTransform"]


class ResidualTransform(nn.Module):
    """(old [n, old_dim], side [n, side_dim]) -> skip(x) + out(relu(hidden(x))), with x their concatenation:
    [n, new_dim] (or [n, new_dim + 1] with the uncertainty). It has no BatchNorm.

    The correction begins at zero; `start_from` sets the skip.
    """

    def __init__(
        self, old_dim: int, new_dim: int, side_dim: int = 0, hidden_dim: int = 256, uncertainty: bool = False
    ) -> None:
        super().__init__()
        self.old_dim, self.new_dim, self.side_dim, self.uncertainty = old_dim, new_dim, side_dim, uncertainty
        width, out_dim = old_dim + side_dim, new_dim + int(uncertainty)
        self.skip = nn.Linear(width, out_dim)
        self.hidden = nn.Linear(width, hidden_dim)
        self.out = nn.Linear(hidden_dim, out_dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def start_from(self, linear: TransformSpec, factors: dict[str, float]) -> None:
        """Set the skip to a linear map of the arrays, where training reads them times `factors`."""
        (layer,) = linear.trunk
        with torch.no_grad():
            scale = self._input_scale(factors)
            self.skip.weight[: self.new_dim] = torch.from_numpy(layer.weight).to(scale) / scale * factors["new"]
            self.skip.bias[: self.new_dim] = torch.from_numpy(layer.bias).to(scale) * factors["new"]
            self.skip.weight[self.new_dim :] = 0
            self.skip.bias[self.new_dim :] = 0

    def raw(self, old: Tensor, side: Tensor | None = None) -> Tensor:
        x = old if side is None else torch.cat([old, side], dim=1)
        found: Tensor = self.skip(x) + self.out(torch.relu(self.hidden(x)))
        return found

    def fold(self, factors: dict[str, float]) -> None:
        """Make it read and write the scale of the arrays, where it was trained on arrays times `factors`."""
        with torch.no_grad():
            scale = self._input_scale(factors)
            for layer in (self.skip, self.hidden):
                layer.weight.mul_(scale)
            for tensor in (self.skip.weight, self.skip.bias, self.out.weight):
                tensor[: self.new_dim].div_(factors["new"])

    def _input_scale(self, factors: dict[str, float]) -> Tensor:
        """What each input is multiplied by: [old_dim + side_dim]."""
        scale = torch.full((self.old_dim + self.side_dim,), factors["old"], device=self.skip.weight.device)
        scale[self.old_dim :] = factors.get("side", 1.0)
        return scale

    def to_spec(self, *, normalize: bool) -> TransformSpec:
        """As layers with ReLU: the skip passes as relu(x) - relu(-x), which is x."""
        eye = torch.eye(self.old_dim + self.side_dim)
        first = torch.cat([self.hidden.weight.cpu(), eye, -eye])
        bias = torch.cat([self.hidden.bias.cpu(), torch.zeros(2 * len(eye))])
        skip = self.skip.weight.cpu()
        last = torch.cat([self.out.weight.cpu(), skip, -skip], dim=1)
        return TransformSpec(
            old_dim=self.old_dim,
            side_dim=self.side_dim,
            new_dim=self.new_dim,
            branches=(Branch("old", ()), Branch("side", ())) if self.side_dim else (Branch("old", ()),),
            trunk=(
                Layer(_numpy(first), _numpy(bias), relu=True),
                Layer(_numpy(last), _numpy(self.skip.bias.cpu()), relu=False),
            ),
            normalize=normalize,
            uncertainty=self.uncertainty,
        )


def _numpy(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(x.detach().numpy(), np.float32)
