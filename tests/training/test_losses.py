"""The losses are the formulas of their papers, row by row, and the classifier stays frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.training.config import LossConfig
from fct_fast.training.losses import TransformLoss, frozen_classifier, info_nce, similarity, uncertain

N, DIM, CLASSES = 9, 6, 4


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    out, new = (torch.from_numpy(rng.normal(size=(N, DIM))) for _ in range(2))
    return out, new, torch.from_numpy(rng.integers(CLASSES, size=N))


def unit(x: torch.Tensor) -> np.ndarray:
    a = x.numpy()
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def test_similarities_are_their_formulas(rows):
    out, new, _ = rows
    a, b = out.numpy(), new.numpy()
    expected = {
        "mse": ((a - b) ** 2).mean(axis=1),
        "l1": np.abs(a - b).mean(axis=1),
        "cosine": 1 - (unit(out) * unit(new)).sum(axis=1),
        "infonce": -np.diag(log_softmax(unit(out) @ unit(new).T / 0.2, axis=1)),
    }
    for kind, value in expected.items():
        np.testing.assert_allclose(similarity(kind, out, new, 0.2).numpy(), value, rtol=1e-9)
    np.testing.assert_allclose(info_nce(3 * out, 0.1 * new, 0.2).numpy(), expected["infonce"], rtol=1e-9)


def test_uncertainty_is_least_at_the_logarithm_of_the_loss():
    loss = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    best = loss.log()
    np.testing.assert_allclose(uncertain(loss, best).numpy(), (0.5 + 0.5 * best).numpy())
    for step in (-0.1, 0.1):
        assert (uncertain(loss, best + step) > uncertain(loss, best)).all()


def test_the_whole_loss_is_fastfills(rows):
    """FastFill as released: 0.5 exp(-s) (mse + smoothed cross-entropy) + 0.5 s, the head at the arrays' own scale."""
    out, new, labels = rows
    s = torch.linspace(-1, 1, N, dtype=torch.float64)[:, None]
    head = nn.Linear(DIM, CLASSES)
    factor = 4.0
    config = LossConfig(discriminative=0.7, label_smoothing=0.1, uncertainty=True)
    loss = TransformLoss(config, DIM, frozen_classifier(head, DIM, labels, torch.device("cpu")).double(), factor)
    found = loss(torch.cat([out, s], dim=1), new, labels)

    logits = (out / factor).numpy() @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    logp = log_softmax(logits, axis=1)
    entropy = -(0.9 * logp[np.arange(N), labels] + 0.1 * logp.mean(axis=1))
    per_row = ((out - new) ** 2).mean(dim=1).numpy() + 0.7 * entropy
    expected = (0.5 * np.exp(-s[:, 0].numpy()) * per_row + 0.5 * s[:, 0].numpy()).mean()
    np.testing.assert_allclose(float(found), expected, rtol=1e-9)


def test_the_classifier_is_a_frozen_copy_however_it_is_given(rows):
    out, _, labels = rows
    head = nn.Linear(DIM, CLASSES, bias=False)
    given = [head, head.weight, head.weight.detach().numpy(), (head.weight, torch.zeros(CLASSES))]
    copies = [frozen_classifier(x, DIM, labels, torch.device("cpu")) for x in given]
    with torch.no_grad():
        expected = head(out.float())
        head.weight.zero_()
    for copy in copies:
        torch.testing.assert_close(copy(out.float()), expected)
        assert not any(p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize(
    ("given", "labels", "error", "says"),
    [
        (np.zeros((CLASSES, DIM + 1), np.float32), [0, 1], ShapeError, "width of new"),
        (np.zeros(CLASSES, np.float32), [0, 1], ShapeError, "classes, 6"),
        ("head.pt", [0, 1], ConfigError, "torch module"),
        (np.zeros((CLASSES, DIM), np.float32), [0, CLASSES], ConfigError, "from 0 to 4"),
        (np.zeros((CLASSES, DIM), np.float32), [-1, 0], ConfigError, "from -1"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(given, labels, error, says):
    with pytest.raises(error, match=says):
        frozen_classifier(given, DIM, torch.tensor(labels), torch.device("cpu"))
