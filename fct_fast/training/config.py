"""FitConfig and LossConfig: the options of `fit`, checked when they are made, kept in YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fct_fast.config import Config

__all__ = ["CLOSED_FORMS", "TRAINED", "FitConfig", "FitMethod", "LossConfig"]

FitMethod = Literal[
    "fct", "residual", "ridge", "affine", "procrustes", "procrustes_centred", "procrustes_whitened", "low_rank"
]
TRAINED = ("fct", "residual")
CLOSED_FORMS = ("ridge", "affine", "procrustes", "procrustes_centred", "procrustes_whitened", "low_rank")
NEEDS_STRENGTH = ("ridge", "procrustes_whitened", "low_rank")
"""Closed forms that are regularised; the strength is picked on held-out rows where none is given."""


class LossConfig(Config):
    """What training minimises: the mean over rows of similarity + discriminative, weighed by uncertainty.

    similarity: "mse" (FCT, CVPR 2022), "l1", "cosine" (1 - cosine), or "infonce": cross-entropy of finding the row's
    own new embedding among those of the batch by cosine / temperature (van den Oord et al., 2018), for spaces where
    only angles count. It reads targets of RMS 1, so that its balance with the other terms does not depend on the scale
    of the arrays. discriminative: weight of the cross-entropy of the new model's frozen classifier on h's output,
    0 for none; label_smoothing: of that. uncertainty: h predicts s, the logarithm of its own loss, and the loss
    becomes exp(-s) / 2 * loss + s / 2 (FastFill, Jaeckle et al., ICLR 2023).
    """

    similarity: Literal["mse", "l1", "cosine", "infonce"] = "mse"
    discriminative: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    uncertainty: bool = False
    temperature: float = Field(0.07, gt=0)


class FitConfig(Config):
    """Options of `fct_fast.fit`. The defaults are the recipe of the FCT paper's code for ImageNet (CVPR 2022).

    method: "fct" trains the paper's MLP, "residual" a linear map plus a small MLP; the others are closed forms: "ridge"
    (strength chosen on held-out rows), "affine" (least squares), "procrustes" (orthogonal; "_centred", "_whitened"),
    "low_rank". direction: "gallery" maps (old, side) to new; "query" maps new to old, for queries of the new model on a
    gallery that stays as it is. interpolation: with direction "query", h mixes this share of the mapped query with the
    old model's own query, which it reads as side; "auto" is the best share on the held-out rows, None does not mix.
    loss: of the trained methods. inner_dim: width of the MLP's trunk; hidden_dim: of the
    residual MLP. epochs, batch_size, lr, weight_decay: of Adam; accumulate: batches whose gradients make one step;
    warmup_epochs: linear warm-up (may be a fraction), then a cosine to zero, per step. eval_mode_switch: from half of
    the epochs on BatchNorm uses fixed statistics while training goes on, as it will when h is used. ema: decay of the
    moving average of the weights that becomes h, 0 for none. normalize: h L2-normalises its output (the loss reads the
    output before that). held_out: share of the rows that are kept from training and measured. seed: of the split, the
    initial weights and the batches. ridge_lambda: strength of the ridge (also of "procrustes_whitened" and "low_rank"),
    in units of the inputs' mean variance; None picks the best of a grid on the held-out rows. rank: of "low_rank"; None
    is a quarter of the smaller width. baseline: with a trained method, also measure a ridge map on the held-out rows.
    device: "cpu", "cuda", or "auto" (cuda where torch finds one).

    Raises ConfigError for a value that makes no sense.
    """

    method: FitMethod = "fct"
    direction: Literal["gallery", "query"] = "gallery"
    interpolation: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = None
    loss: LossConfig = LossConfig()
    inner_dim: int = Field(2048, ge=1)
    hidden_dim: int = Field(256, ge=1)
    epochs: int = Field(80, ge=1)
    batch_size: int = Field(1024, ge=2)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(2.0**-15, ge=0)
    warmup_epochs: float = Field(5.0, ge=0)
    eval_mode_switch: bool = True
    ema: float = Field(0.0, ge=0, lt=1)
    normalize: bool = True
    held_out: float = Field(0.1, ge=0, le=0.5)
    seed: int = Field(0, ge=0, lt=2**63)
    ridge_lambda: float | None = Field(None, ge=0)
    rank: int | None = Field(None, ge=1)
    baseline: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _together(self) -> FitConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, more than the {self.epochs} epochs there are")
        if self.interpolation is not None and self.direction != "query":
            raise ValueError("interpolation mixes queries; use it with direction='query', or leave it out")
        if self.interpolation == "auto" and self.held_out == 0:
            raise ValueError("interpolation 'auto' is chosen on held-out rows; give a share, or held_out above 0")
        if self.method in NEEDS_STRENGTH and self.ridge_lambda is None and self.held_out == 0:
            raise ValueError(
                f"method {self.method} picks its strength on held-out rows; give ridge_lambda, or held_out above 0"
            )
        return self
