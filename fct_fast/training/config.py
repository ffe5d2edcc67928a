"""FitConfig: the options of `fit`, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fct_fast.errors import ConfigError

__all__ = ["FitConfig", "FitMethod"]

FitMethod = Literal["fct", "ridge"]


@dataclass(frozen=True)
class FitConfig:
    """Options of `fct_fast.fit`. The defaults are the recipe of the FCT paper's code for ImageNet (CVPR 2022).

    method: "fct" trains the paper's MLP, "ridge" solves a linear map in closed form. inner_dim: width of the MLP's
    trunk. epochs, batch_size, lr, weight_decay: Adam on mean squared error; warmup_epochs: linear warm-up (may be a
    fraction), then a cosine to zero, per step. eval_mode_switch: from half of the epochs on BatchNorm uses fixed
    statistics while training goes on, as it will when h is used. normalize: h L2-normalises its output (the loss reads
    the output before that). held_out: share of the rows that are kept from training and measured. seed: of the split,
    the initial weights and the batches. ridge_lambda: strength of the ridge, in units of the inputs' mean variance;
    None picks the best of a grid on the held-out rows. baseline: with "fct", also measure a ridge map on the held-out
    rows. device: "cpu", "cuda", or "auto" (cuda where torch finds one).

    Raises ConfigError for a value that makes no sense.
    """

    method: FitMethod = "fct"
    inner_dim: int = 2048
    epochs: int = 80
    batch_size: int = 1024
    lr: float = 5e-4
    weight_decay: float = 2.0**-15
    warmup_epochs: float = 5.0
    eval_mode_switch: bool = True
    normalize: bool = True
    held_out: float = 0.1
    seed: int = 0
    ridge_lambda: float | None = None
    baseline: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        _require(self.method in get_args(FitMethod), "method", self.method, "'fct' or 'ridge'")
        for name, least in (("inner_dim", 1), ("epochs", 1), ("batch_size", 2), ("seed", 0)):
            value = getattr(self, name)
            _require(type(value) is int and value >= least, name, value, f"an integer of at least {least}")
        _require(_number(self.lr) and self.lr > 0, "lr", self.lr, "above 0")
        _require(_number(self.weight_decay) and self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        warmup = self.warmup_epochs
        _require(
            _number(warmup) and 0 <= warmup <= self.epochs, "warmup_epochs", warmup, f"from 0 to epochs, {self.epochs}"
        )
        _require(_number(self.held_out) and 0 <= self.held_out <= 0.5, "held_out", self.held_out, "from 0 to 0.5")
        strength = self.ridge_lambda
        _require(
            strength is None or (_number(strength) and strength >= 0), "ridge_lambda", strength, "None, or 0 or more"
        )
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "'auto', 'cpu' or 'cuda'")
        if self.method == "ridge" and strength is None and self.held_out == 0:
            raise ConfigError("a ridge fit picks its strength on held-out rows; give ridge_lambda, or held_out above 0")

    def to_json(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(ok: bool, name: str, value: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"FitConfig: {name} must be {wanted}, got {value!r:.80}")
