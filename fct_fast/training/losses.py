"""The losses that h is trained with, one value a row, on its output before normalisation.

FCT (Ramanujan et al., CVPR 2022) has the mean squared error alone; FastFill (Jaeckle et al., ICLR 2023) adds the new
model's frozen classifier and a predicted uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.training.config import LossConfig

__all__ = ["TransformLoss", "frozen_classifier", "info_nce", "similarity", "uncertain"]


def similarity(kind: str, out: Tensor, new: Tensor, temperature: float = 0.07) -> Tensor:
    """Distance of each output to its target, [n, dim] x 2 -> [n]; "mse" and "l1" are means over the dimensions."""
    if kind == "mse":
        return (out - new).square().mean(dim=1)
    if kind == "l1":
        return (out - new).abs().mean(dim=1)
    if kind == "cosine":
        return 1 - F.cosine_similarity(out, new, dim=1)
    return info_nce(out, new, temperature)


def info_nce(out: Tensor, new: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding a row's own target among the targets of the batch (van den Oord et al., 2018): [n, dim]
    x 2 -> [n]. It needs no labels, so two rows of one item repel each other when both are in a batch."""
    scores = F.normalize(out, dim=1) @ F.normalize(new, dim=1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(out), device=out.device), reduction="none")


def uncertain(loss: Tensor, s: Tensor) -> Tensor:
    """FastFill's weighting, [n] x 2 -> [n]: exp(-s) / 2 * loss + s / 2, least where s is the logarithm of the loss."""
    return 0.5 * (torch.exp(-s) * loss + s)


@dataclass(frozen=True)
class TransformLoss:
    """The mean over a batch of what a LossConfig says.

    new_dim: width of the new space; an output with one more column carries s there. classifier: frozen, [n, new_dim] at
    the scale of the given arrays -> logits [n, classes]; factor: what h's output and its targets were multiplied by.
    """

    config: LossConfig
    new_dim: int
    classifier: nn.Module | None = None
    factor: float = 1.0

    def __call__(self, out: Tensor, new: Tensor, labels: Tensor | None) -> Tensor:
        """out: [n, new_dim] or [n, new_dim + 1]; new: [n, new_dim]; labels: int64 [n], for the classifier."""
        rows = self.per_row(out[:, : self.new_dim], new, labels)
        if self.config.uncertainty:
            rows = uncertain(rows, out[:, self.new_dim])
        return rows.mean()

    def per_row(self, out: Tensor, new: Tensor, labels: Tensor | None) -> Tensor:
        """[n]: the loss before uncertainty weighs it, which is what s predicts the logarithm of."""
        config = self.config
        rows = similarity(config.similarity, out, new, config.temperature)
        if config.discriminative:
            assert self.classifier is not None
            assert labels is not None
            logits = self.classifier(out / self.factor)
            smoothing = config.label_smoothing
            rows = rows + config.discriminative * F.cross_entropy(
                logits, labels, reduction="none", label_smoothing=smoothing
            )
        return rows


def frozen_classifier(given: object, new_dim: int, labels: Tensor, device: torch.device) -> nn.Module:
    """The new model's classifier, as a module of its own that is never trained: from a module, or from its weights
    [classes, new_dim] (an array or a tensor; a pair of these has the bias [classes] too).

    labels: int64 [n], the classes of the rows as the classifier numbers them. Raises ShapeError or ConfigError where
    these do not fit.
    """
    if isinstance(given, nn.Module):
        import copy

        classifier: nn.Module = copy.deepcopy(given)
    else:
        weight, bias = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
        try:
            weight = torch.as_tensor(weight).detach().float()
            bias = None if bias is None else torch.as_tensor(bias).detach().float()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"classifier must be a torch module or its weights, got {type(given).__name__}"
            ) from error
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ShapeError(f"classifier weights must be [classes, {new_dim}] and a bias [classes]")
        classifier = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        with torch.no_grad():
            classifier.weight.copy_(weight)
            if bias is not None:
                classifier.bias.copy_(bias)
    classifier = classifier.float().to(device).eval().requires_grad_(False)
    try:
        logits = classifier(torch.zeros(2, new_dim, device=device))
        classes = logits.shape[1]
    except (RuntimeError, IndexError, AttributeError) as error:
        raise ShapeError(f"classifier cannot read rows of {new_dim} values, the width of new ({error})") from error
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ConfigError(
            f"the labels run from {int(labels.min())} to {int(labels.max())}, but the classifier has {classes} "
            f"classes; give labels as the classifier numbers them"
        )
    return classifier
