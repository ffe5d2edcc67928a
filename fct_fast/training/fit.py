"""`fit`: from paired arrays to a forward transformation, its held-out metrics and what a bundle needs to know.

The recipe is the one of the FCT paper's code (Ramanujan et al., CVPR 2022): mean squared error on the output before
normalisation, Adam, warm-up and cosine, BatchNorm on fixed statistics from half time on. Three things differ. Stored
arrays take the place of three backbones per step. The fit is scale-free: inputs and targets are divided by their RMS
element for training, and the factors are folded into the first and last layers afterwards. And the statistics that
BatchNorm is fixed to are measured afresh, since running ones lag far behind in a short training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fct_fast.errors import ConfigError, DeviceError
from fct_fast.space import SpaceFingerprint
from fct_fast.training.checkpoint import Checkpoint, digest_of
from fct_fast.training.config import TRAINED, FitConfig
from fct_fast.training.losses import TransformLoss, frozen_classifier
from fct_fast.training.maps import fit_interpolation, fit_map
from fct_fast.training.measure import activation_maxima, closeness, retrieval, uncertainty_agreement
from fct_fast.training.pairs import ArrayLike, Pairs, class_codes, split_rows
from fct_fast.training.residual import ResidualTransform
from fct_fast.training.transform_loop import Batches, OnEpoch, train_transform
from fct_fast.transform import ForwardTransform

__all__ = ["FitResult", "fit"]

BASELINE_ROWS = 100_000  # rows that a linear map beside a network is solved on
SCALE_ROWS = 16_384  # rows that the activation maxima are measured on


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns; `fct_fast.save` takes it whole.

    transform: h, in eval mode on the CPU, at the scale of the given arrays. metrics: plain JSON values:
    "train_rows", "held_out_rows"; "held_out": {"mse", "r2" (against predicting the training mean), "cosine" (mean)} of
    the output before normalisation, absent without held-out rows, and with labels {"cmc1", "cmc5", "map"} of true new
    rows as queries against the mapped rows; "ridge": the same for the linear baseline, and its "strength"; "new": the
    ceiling, true new rows as queries and gallery; "loss": mean training loss per epoch, in units of the targets' mean
    square; "interpolation": {"share", "mapped_norm", "old_norm"} of the mix, and with labels its retrieval ("held_out"
    is of the query map alone). spaces: fingerprints of "old", "side", "new" (view 0). scales: {"activation_max":
    {layer: [largest output per channel]}, "rows"} over training rows, from which int8 and fp16 kernels derive their
    scales. pairs: number of rows given.
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
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    log_dir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Fit h so that h(old, side) comes close to new.

    old, side, new: paired rows [n, dim], or several augmented views of them [views, n, dim], as numpy arrays or torch
    tensors of any floating-point dtype. Each epoch draws one view per row, the same for all three; view 0 is the plain
    one, which held-out rows and statistics use. labels: [n], any values; held-out rows are then drawn class by class,
    and retrieval among them is measured. groups: [n]; rows of one group (the same product, person, typeface) are held
    out together. classifier: the new model's classifier for the discriminative loss, a torch module or its weights
    [classes, new_dim] (or a pair of weights and bias); labels are then integers, as it numbers the classes. checkpoint:
    a file that the training's state is kept in every `checkpoint_every` seconds; the same call again goes on from it,
    to the same bits on a CPU. log_dir: for TensorBoard. on_epoch: called with (epoch, mean loss) after each epoch.

    The same arrays, config and thread count give the same h on a CPU; the global random state is left alone.
    Raises ShapeError, DtypeError, NonFiniteError (naming array and row, or a training that diverged), ConfigError,
    DeviceError, CorruptError (a damaged checkpoint).
    """
    config = config or FitConfig()
    device = _device(config.device)
    if config.direction == "query":
        if side is not None:
            raise ConfigError("a query map reads the new embedding alone; leave side out, or use direction='gallery'")
        old, new = new, old
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
    if config.method in TRAINED:
        training = _Training(pairs, train, config, labels, classifier)
        state = _checkpoint(checkpoint, checkpoint_every, training)
        h, metrics["loss"] = training.run(state, None if log_dir is None else Path(log_dir), on_epoch)
    else:
        h, chosen = _closed_form(pairs, train, held, config)
        metrics |= chosen
    h = h.to(device)
    if len(held) and config.method in TRAINED and config.baseline:
        sample = train[:: math.ceil(len(train) / BASELINE_ROWS)]
        linear, chosen = _closed_form(pairs, sample, held, config.replace(method="ridge"))
        metrics["ridge"] = _held_out(linear.to(device), pairs, held, train, classes, config) | chosen
    if len(held):
        metrics["held_out"] = _held_out(h, pairs, held, train, classes, config)
        if classes is not None:
            metrics["new"] = retrieval(None, pairs, held, classes)
        if h.uncertainty:
            metrics["held_out"]["uncertainty_agreement"] = uncertainty_agreement(h, pairs, held)
    if config.interpolation is not None:
        h, pairs, metrics["interpolation"] = _interpolated(h, pairs, train, held, classes, config)
        if len(held):
            metrics["interpolation"] |= retrieval(h, pairs, held, classes, queries=True)
    scales = activation_maxima(h, pairs, train[:: math.ceil(len(train) / SCALE_ROWS)])
    h = h.cpu()
    h.spaces = pairs.fingerprints()
    return FitResult(h, metrics, h.spaces, scales, pairs.rows, config)


def _held_out(
    h: ForwardTransform, pairs: Pairs, held: Tensor, train: Tensor, classes: Any, config: FitConfig
) -> dict[str, float]:
    queries = config.direction == "query"
    return closeness(h, pairs, held, train) | retrieval(h, pairs, held, classes, queries=queries)


def _interpolated(
    h: ForwardTransform, pairs: Pairs, train: Tensor, held: Tensor, classes: Any, config: FitConfig
) -> tuple[ForwardTransform, Pairs, dict[str, float]]:
    """The query map mixed with the old model's query, the pairs that it reads, and the share that was used."""
    share = None if config.interpolation == "auto" else config.interpolation
    spec, chosen = fit_interpolation(h.cpu().to_spec(), pairs, train, held, share=share, classes=classes)
    both = Pairs(old=pairs.old, side=pairs.new, new=pairs.new, views=pairs.views)
    return ForwardTransform.from_spec(spec).to(train.device), both, chosen


class _Training:
    """A network, and all that its training needs."""

    def __init__(
        self,
        pairs: Pairs,
        train: Tensor,
        config: FitConfig,
        labels: Sequence[Any] | npt.NDArray[Any] | None,
        classifier: object,
    ) -> None:
        self.config, self.pairs = config, pairs
        factors = {name: 1 / (rms or 1.0) for name, rms in pairs.rms(train).items()}  # training rows may be all zero
        self.batches = Batches(pairs, train, factors, config)
        self._sample = train[:: math.ceil(len(train) / BASELINE_ROWS)]
        self.labels, head = _targets(config, labels, classifier, pairs, train.device)
        self.loss = TransformLoss(config.loss, int(pairs.new.shape[2]), head, factors["new"])

    def run(
        self, checkpoint: Checkpoint | None, log_dir: Path | None, on_epoch: OnEpoch | None
    ) -> tuple[ForwardTransform, list[float]]:
        """The trained h, in eval mode at the scale of the arrays, and the mean loss of each epoch."""
        config, pairs, factors = self.config, self.pairs, self.batches.factors
        dims = int(pairs.old.shape[2]), int(pairs.new.shape[2]), 0 if pairs.side is None else int(pairs.side.shape[2])
        s = config.loss.uncertainty
        network: ForwardTransform | ResidualTransform
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if config.method == "fct":
                network = ForwardTransform(*dims, config.inner_dim, config.normalize, uncertainty=s)
            else:
                network = ResidualTransform(*dims, config.hidden_dim, uncertainty=s)
                linear, _ = fit_map("ridge", pairs, self._sample, self._sample, ridge_lambda=1e-3)
                network.start_from(linear, factors)
        network.to(self.batches.rows.device)
        history = train_transform(
            network,
            self.batches,
            self.loss,
            labels=self.labels,
            checkpoint=checkpoint,
            log_dir=log_dir,
            on_epoch=on_epoch,
        )
        if isinstance(network, ResidualTransform):
            network.fold(factors)
            return ForwardTransform.from_spec(network.to_spec(normalize=config.normalize)), history
        _fold_scales(network, factors)
        return network, history


def _targets(
    config: FitConfig, labels: Any, classifier: object, pairs: Pairs, device: torch.device
) -> tuple[Tensor | None, nn.Module | None]:
    """Labels as the classifier numbers them, and the classifier; neither without a discriminative loss."""
    if not config.loss.discriminative:
        if classifier is not None:
            raise ConfigError(
                "classifier is only read by the discriminative loss; give it a weight in config.loss, or leave it out"
            )
        return None, None
    if classifier is None or labels is None:
        raise ConfigError("the discriminative loss needs the new model's classifier and labels; give both")
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu":
        raise ConfigError(f"the discriminative loss needs labels that are integers, got {numbers.dtype}")
    codes = torch.from_numpy(numbers.astype(np.int64)).to(device)
    return codes, frozen_classifier(classifier, int(pairs.new.shape[2]), codes, device)


def _checkpoint(path: str | Path | None, every: float, training: _Training) -> Checkpoint | None:
    if path is None:
        return None
    given = dict(training.pairs.named())
    if training.loss.classifier is not None:
        given |= training.loss.classifier.state_dict()
    if training.labels is not None:
        given["labels"] = training.labels
    key = {
        **training.config.to_json(),
        "rows": digest_of(given),
        "torch version": str(torch.__version__),
        "number of threads": torch.get_num_threads(),
    }
    return Checkpoint(Path(path), key, every)


def _closed_form(
    pairs: Pairs, train: Tensor, held: Tensor, config: FitConfig
) -> tuple[ForwardTransform, dict[str, Any]]:
    spec, chosen = fit_map(
        config.method,
        pairs,
        train,
        held,
        ridge_lambda=config.ridge_lambda,
        rank=config.rank,
        normalize=config.normalize,
    )
    return ForwardTransform.from_spec(spec), chosen


def _fold_scales(h: ForwardTransform, factors: dict[str, float]) -> None:
    """Make h read and write the scale of the arrays, where it was trained on arrays times `factors`."""
    with torch.no_grad():
        for name, branch in zip(h.branch_inputs, h.branches, strict=True):
            first = next(m for m in branch.modules() if isinstance(m, nn.Linear))
            first.weight.mul_(factors[name])
        last = h.trunk[-1]
        assert isinstance(last, nn.Linear)
        for tensor in (last.weight, last.bias):
            tensor[: h.new_dim].div_(factors["new"])


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' was asked for, but torch finds no usable GPU; use device='cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
