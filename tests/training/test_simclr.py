"""SimCLR: the loss is NT-Xent, and training pulls views of an item together without reading labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fct_fast.data.digits import digit_items
from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError
from fct_fast.models import StrideCNN
from fct_fast.training.loop import seeded_initialisation
from fct_fast.training.simclr import SimCLRConfig, nt_xent, train_simclr


def test_the_loss_is_nt_xent() -> None:
    """Against the formula in float64 and against pytorch-metric-learning's own NTXentLoss, gradients included."""
    from pytorch_metric_learning.losses import NTXentLoss

    n, temperature = 6, 0.3
    z = torch.randn(2 * n, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    items = torch.arange(n).repeat(2)
    unit = F.normalize(z.detach().double()).numpy()
    similarity = unit @ unit.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    positive = similarity[np.arange(2 * n), (np.arange(2 * n) + n) % (2 * n)]
    expected = float(np.mean(np.log(np.exp(similarity).sum(axis=1)) - positive))

    gradients = []
    for loss in (nt_xent(temperature), NTXentLoss(temperature)):
        value = loss(z, items)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        gradients.append(torch.autograd.grad(value, z)[0])
    torch.testing.assert_close(*gradients)


def test_views_of_an_item_come_together() -> None:
    pictures, labels = digit_items(held_out=False)
    unlabelled = AffineViews(pictures, np.zeros_like(labels), ViewConfig(size=8, noise=0.05))
    with seeded_initialisation(0):
        model = StrideCNN(8, 32, 8)

    def found() -> float:
        """Share of items whose second view is the nearest to the first, among 300."""
        with torch.no_grad():
            first, second = (
                F.normalize(model.eval()(unlabelled.draw(torch.arange(300), torch.Generator().manual_seed(seed))))
                for seed in (1, 2)
            )
        return float(((first @ second.T).argmax(dim=1) == torch.arange(300)).float().mean())

    before = found()
    state = torch.random.get_rng_state()
    losses = train_simclr(model, unlabelled, SimCLRConfig(steps=150, batch_size=128, learning_rate=0.1), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    assert found() > before + 0.1


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        SimCLRConfig(steps=1, temperature=0)
    one = AffineViews(np.zeros((1, 8, 8), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ConfigError, match="at least two"):
        train_simclr(StrideCNN(1, 2, 8), one, SimCLRConfig(steps=1), seed=0)
