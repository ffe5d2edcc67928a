"""`fit`: from paired arrays to a forward transformation, its held-out metrics and what a bundle needs to know.

The loop is the one of the FCT paper's code (Ramanujan et al., CVPR 2022): mean squared error on the output before
normalisation, Adam, warm-up and cosine, BatchNorm on fixed statistics from half time on. Three things differ. Stored
arrays take the place of three backbones per step. The fit is scale-free: inputs and targets are divided by their RMS
element for training, and the factors are folded into the first and last layers afterwards. And the statistics that
BatchNorm is fixed to are measured afresh, since running ones lag far behind in a short training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fct_fast.errors import ConfigError, DeviceError, NonFiniteError
from fct_fast.space import SpaceFingerprint
from fct_fast.training.config import FitConfig
from fct_fast.training.maps.ridge import fit_ridge
from fct_fast.training.measure import activation_maxima, closeness, retrieval
from fct_fast.training.pairs import ArrayLike, Pairs, class_codes, split_rows
from fct_fast.training.schedule import warmup_cosine_scheduler
from fct_fast.transform import ForwardTransform

__all__ = ["FitResult", "fit"]

BASELINE_ROWS = 100_000  # rows that the ridge baseline is solved on
SCALE_ROWS = 16_384  # rows that the activation maxima are measured on
NORM_BATCHES = 64  # batches that the statistics of BatchNorm are measured on


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns; `fct_fast.save` takes it whole.

    transform: h, in eval mode on the CPU, at the scale of the given arrays. metrics: plain JSON values:
    "train_rows", "held_out_rows"; "held_out": {"mse", "r2" (against predicting the training mean), "cosine" (mean)} of
    the output before normalisation, absent without held-out rows, and with labels {"cmc1", "cmc5", "map"} of true new
    rows as queries against the mapped rows; "ridge": the same for the linear baseline, and its "strength"; "new": the
    ceiling, true new rows as queries and gallery; "loss": mean training loss per epoch, in units of the targets' mean
    square. spaces: fingerprints of "old", "side", "new" (view 0). scales: {"activation_max": {layer: [largest output
    per channel]}, "rows"} over training rows, from which int8 and fp16 kernels derive their scales. pairs: number of
    rows given.
    """

    transform: ForwardTransform
    metrics: dict[str, Any]
    spaces: dict[str, SpaceFingerprint]
    scales: dict[str, Any]
    pairs: int
    config: FitConfig

    @property
    def summary(self) -> dict[str, Any]:
        """What a bundle records of the training."""
        return {"pairs": self.pairs, "config": self.config.to_json(), "metrics": self.metrics}


def fit(
    *,
    old: ArrayLike,
    new: ArrayLike,
    side: ArrayLike | None = None,
    labels: Sequence[Any] | npt.NDArray[Any] | None = None,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    classifier: object = None,
    config: FitConfig | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Fit h so that h(old, side) comes close to new.

    old, side, new: paired rows [n, dim], or several augmented views of them [views, n, dim], as numpy arrays or torch
    tensors of any floating-point dtype. Each epoch draws one view per row, the same for all three; view 0 is the plain
    one, which held-out rows and statistics use. labels: [n], any values; held-out rows are then drawn class by class,
    and retrieval among them is measured. groups: [n]; rows of one group (the same product, person, typeface) are held
    out together. classifier: reserved for FastFill's discriminative loss. on_epoch: called with (epoch, mean loss)
    after each epoch.

    The same arrays, config and thread count give the same h on a CPU; the global random state is left alone.
    Raises ShapeError, DtypeError, NonFiniteError (naming array and row, or a training that diverged), ConfigError,
    DeviceError.
    """
    config = config or FitConfig()
    if classifier is not None:
        raise ConfigError(
            "classifier needs FastFill's discriminative loss, which this version does not have; leave it out"
        )
    device = _device(config.device)
    pairs = Pairs.of(old, side, new, device)
    rng = np.random.default_rng(config.seed)
    classes = class_codes("labels", labels, pairs.rows)
    rows, held_rows = split_rows(pairs.rows, config.held_out, rng, labels, groups)
    train, held = (torch.from_numpy(x).to(device) for x in (rows, held_rows))
    if len(train) < 2:
        raise ConfigError(
            f"{len(held)} of {pairs.rows} rows are held out, too few are left to train on; lower held_out"
        )

    metrics: dict[str, Any] = {"train_rows": len(train), "held_out_rows": len(held)}
    if config.method == "ridge":
        spec, strength = fit_ridge(pairs, train, held, strength=config.ridge_lambda, normalize=config.normalize)
        h = ForwardTransform.from_spec(spec)
        metrics["strength"] = strength
    else:
        h, metrics["loss"] = _train(pairs, train, config, on_epoch)
    h = h.to(device)
    if len(held):
        metrics["held_out"] = closeness(h, pairs, held, train) | retrieval(h, pairs, held, classes)
        if config.method == "fct" and config.baseline:
            sample = train[:: math.ceil(len(train) / BASELINE_ROWS)]
            spec, strength = fit_ridge(pairs, sample, held, strength=config.ridge_lambda, normalize=config.normalize)
            linear = ForwardTransform.from_spec(spec).to(device)
            metrics["ridge"] = closeness(linear, pairs, held, train) | retrieval(linear, pairs, held, classes)
            metrics["ridge"]["strength"] = strength
        if classes is not None:
            metrics["new"] = retrieval(None, pairs, held, classes)
    scales = activation_maxima(h, pairs, train[:: math.ceil(len(train) / SCALE_ROWS)])
    h = h.cpu()
    h.spaces = pairs.fingerprints()
    return FitResult(h, metrics, h.spaces, scales, pairs.rows, config)


def _train(
    pairs: Pairs, train: Tensor, config: FitConfig, on_epoch: Callable[[int, float], None] | None
) -> tuple[ForwardTransform, list[float]]:
    """The trained h, in eval mode at the scale of the arrays, and the mean loss of each epoch."""
    device = train.device
    factors = {name: 1 / (rms or 1.0) for name, rms in pairs.rms(train).items()}  # training rows may be all zero
    generator = torch.Generator().manual_seed(config.seed)
    side_dim = 0 if pairs.side is None else int(pairs.side.shape[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        h = ForwardTransform(
            int(pairs.old.shape[2]), int(pairs.new.shape[2]), side_dim, config.inner_dim, config.normalize
        )
    h = h.to(device)
    optimizer = torch.optim.Adam(h.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    # Batches of nearly equal size, so that none is too small for BatchNorm.
    batches = min(math.ceil(len(train) / config.batch_size), len(train) // 2)
    steps, warmup = config.epochs * batches, round(config.warmup_epochs * batches)
    scheduler = warmup_cosine_scheduler(optimizer, steps=steps, warmup_steps=warmup)
    history = []
    for epoch in range(config.epochs):
        order = train[torch.randperm(len(train), generator=generator).to(device)]
        views = torch.randint(pairs.views, (len(train),), generator=generator).to(device)
        drawn = list(zip(order.tensor_split(batches), views.tensor_split(batches), strict=True))
        if config.eval_mode_switch and epoch == math.ceil(config.epochs / 2):
            _fix_batch_norm(h, pairs, drawn, factors)
        total = torch.zeros((), device=device)
        for rows, view in drawn:
            old, side, new = _scaled(pairs.batch(rows, view), factors)
            loss = F.mse_loss(h.raw(old, side), new)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            total += loss.detach() * len(rows)
        history.append(float(total) / len(train))
        if not math.isfinite(history[-1]):
            raise NonFiniteError(f"training diverged in epoch {epoch} (the loss is {history[-1]}); lower lr")
        if on_epoch is not None:
            on_epoch(epoch, history[-1])
    if h.training:
        _fix_batch_norm(h, pairs, drawn, factors)
    _fold_scales(h, factors)
    return h, history


def _scaled(
    batch: tuple[Tensor, Tensor | None, Tensor], factors: dict[str, float]
) -> tuple[Tensor, Tensor | None, Tensor]:
    old, side, new = batch
    return old * factors["old"], None if side is None else side * factors["side"], new * factors["new"]


@torch.no_grad()
def _fix_batch_norm(
    h: ForwardTransform, pairs: Pairs, batches: list[tuple[Tensor, Tensor]], factors: dict[str, float]
) -> None:
    """Go to eval mode, on statistics that are the plain mean over batches with the weights as they are now."""
    norms = [m for m in h.modules() if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for rows, view in batches[:NORM_BATCHES]:
        old, side, _ = _scaled(pairs.batch(rows, view), factors)
        h.raw(old, side)
    for norm in norms:
        norm.momentum = 0.1
    h.eval()


def _fold_scales(h: ForwardTransform, factors: dict[str, float]) -> None:
    """Make h read and write the scale of the arrays, where it was trained on arrays times `factors`."""
    with torch.no_grad():
        for name, branch in zip(h.branch_inputs, h.branches, strict=True):
            first = next(m for m in branch.modules() if isinstance(m, nn.Linear))
            first.weight.mul_(factors[name])
        last = h.trunk[-1]
        assert isinstance(last, nn.Linear)
        last.weight.div_(factors["new"])
        last.bias.div_(factors["new"])


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' was asked for, but torch finds no usable GPU; use device='cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
