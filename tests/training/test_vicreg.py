"""VICReg: the loss is the authors', and training pulls views together while all dimensions stay alive."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fct_fast.data.digits import digit_items
from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError
from fct_fast.models import StrideCNN
from fct_fast.training.loop import seeded_initialisation
from fct_fast.training.vicreg import VICRegConfig, train_vicreg, vicreg_loss


def plain(a: np.ndarray, b: np.ndarray, weights: tuple[float, float, float]) -> float:
    """The loss as its definition reads, element by element, in float64."""
    n, d = a.shape
    invariance = sum((a[i, j] - b[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (a, b):
        c = np.cov(z, rowvar=False, ddof=1)
        variance += sum(max(0.0, 1 - np.sqrt(c[j, j] + 1e-4)) for j in range(d)) / d / 2
        covariance += sum(c[j, k] ** 2 for j in range(d) for k in range(d) if j != k) / d
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_loss_is_the_formula(weights: tuple[float, float, float]) -> None:
    """Dimensions of std below and above 1, correlated; and pytorch-metric-learning's VICRegLoss, gradients included."""
    from pytorch_metric_learning.losses import VICRegLoss

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 5)) * [0.2, 0.5, 1, 2, 3]
    a = rng.normal(size=(9, 5)) @ mixing + 4
    b = a + rng.normal(size=(9, 5)) * 0.3
    config = VICRegConfig(1, invariance=weights[0], variance=weights[1], covariance=weights[2])
    theirs = VICRegLoss(*weights)
    gradients = []
    for loss in (lambda x, y: vicreg_loss(x, y, config), lambda x, y: theirs(x, ref_emb=y)):
        first, second = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in (a, b))
        value = loss(first, second)
        assert value.item() == pytest.approx(plain(a, b, weights), rel=1e-5)
        gradients.append(torch.cat(torch.autograd.grad(value, [first, second])))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_collapsed_batch_has_a_finite_gradient() -> None:
    rows = torch.ones(4, 3, requires_grad=True)
    vicreg_loss(rows, rows, VICRegConfig(1)).backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_views_of_an_item_come_together_and_no_dimension_dies() -> None:
    pictures, labels = digit_items(held_out=False)
    mild = ViewConfig(size=8, rotation=5.0, shear=0.0, shift=0.04, noise=0.05)
    unlabelled = AffineViews(pictures, np.zeros_like(labels), mild)
    with seeded_initialisation(0):
        model = StrideCNN(8, 32, 8, relu=False)

    def embedded(seed: int) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(unlabelled.draw(torch.arange(300), torch.Generator().manual_seed(seed)))

    def found() -> float:
        """Share of items whose second view is the nearest to the first, among 300."""
        first, second = F.normalize(embedded(1)), F.normalize(embedded(2))
        return float(((first @ second.T).argmax(dim=1) == torch.arange(300)).float().mean())

    before = found()
    state = torch.random.get_rng_state()
    losses = train_vicreg(model, unlabelled, VICRegConfig(100, batch_size=128, expander_dim=64), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 2
    assert found() > before + 0.1, (before, found())
    assert float(embedded(1).std(dim=0).min()) > 0.1


def test_the_seed_alone_decides() -> None:
    pictures, labels = digit_items(held_out=False)
    views, weights = AffineViews(pictures, labels, ViewConfig(size=8)), []
    for seed in (7, 7, 8):
        with seeded_initialisation(0):
            model = StrideCNN(2, 4, 8)
        train_vicreg(model, views, VICRegConfig(3, batch_size=16, expander_dim=8), seed=seed)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bad_options_are_refused() -> None:
    for bad in ({"invariance": -1.0}, {"variance": float("nan")}, {"covariance": float("inf")}, {"expander_dim": 1}):
        with pytest.raises(ConfigError, match="VICReg needs"):
            VICRegConfig(1, **bad)
    with pytest.raises(ConfigError, match="steps >= 1"):
        VICRegConfig(0)
    one = AffineViews(np.zeros((1, 8, 8), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ConfigError, match="at least two"):
        train_vicreg(StrideCNN(1, 2, 8), one, VICRegConfig(1), seed=0)
