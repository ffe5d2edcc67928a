"""Supervised training: it learns, it depends on the seed alone, and it leaves the world as it found it."""

import numpy as np
import pytest
import torch

from fct_fast.data.digits import digit_items
from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError, NonFiniteError
from fct_fast.models import StrideCNN
from fct_fast.training.backbone import BackboneConfig, train_backbone
from fct_fast.training.loop import LoopConfig, item_batches, run_loop, seeded_initialisation


@pytest.fixture(scope="module")
def views() -> AffineViews:
    pictures, labels = digit_items(held_out=False)
    return AffineViews(pictures, labels, ViewConfig(size=8, noise=0.05))


def model() -> StrideCNN:
    with seeded_initialisation(0):
        return StrideCNN(8, 16, 8)


def test_it_learns_to_classify(views: AffineViews) -> None:
    net = model()
    result = train_backbone(net, views, BackboneConfig(steps=120, batch_size=128), seed=1)
    pictures, labels = digit_items(held_out=True)
    held_out = AffineViews(pictures, labels, views.config)
    with torch.no_grad():
        images = held_out.draw(torch.arange(len(held_out)), torch.Generator().manual_seed(2))
        guess = result.classifier(net(images)).argmax(dim=1).numpy()
    assert (guess == labels).mean() > 0.8  # chance is 0.1
    assert len(result.losses) == 120
    assert np.mean(result.losses[-10:]) < 0.6 * np.mean(result.losses[:10])


def test_the_seed_alone_decides_and_the_global_generator_is_untouched(views: AffineViews) -> None:
    weights = []
    state = torch.random.get_rng_state()
    for global_seed, seed in ((1, 7), (2, 7), (3, 8)):
        torch.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        net = model()
        train_backbone(net, views, BackboneConfig(steps=3, batch_size=16), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    torch.random.set_rng_state(state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_modules_come_back_in_eval_mode_and_progress_is_told(views: AffineViews) -> None:
    net, steps = model(), []
    config = BackboneConfig(steps=3, batch_size=16)
    result = train_backbone(net, views, config, seed=0, on_step=lambda *step: steps.append(step))
    assert not net.training
    assert not result.classifier.training
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_batches_visit_all_items_before_any_comes_again() -> None:
    batches = list(item_batches(10, 4, 5, torch.Generator().manual_seed(0)))
    assert [len(b) for b in batches] == [4] * 5
    assert len(set(torch.cat(batches[:2]).tolist())) == 8  # 8 of 10, then a new order
    assert all(len(set(b.tolist())) == 4 for b in batches)
    assert [len(b) for b in item_batches(3, 8, 2, torch.Generator())] == [3, 3]


def test_divergence_is_an_error_before_it_reaches_the_weights() -> None:
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(NonFiniteError, match="step 0 of 5"):
        run_loop([layer], lambda _: layer.weight.sum() * torch.nan, 4, LoopConfig(5), torch.Generator())
    assert all(torch.isfinite(p).all() for p in layer.parameters())


def test_bad_options_are_refused(views: AffineViews) -> None:
    with pytest.raises(ConfigError, match="steps >= 1"):
        BackboneConfig(steps=0)
    with pytest.raises(ConfigError, match="learning_rate > 0"):
        BackboneConfig(steps=1, learning_rate=float("nan"))
    with pytest.raises(ConfigError, match="label_smoothing"):
        BackboneConfig(steps=1, label_smoothing=1.0)
    empty = AffineViews(np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ConfigError, match="got 0 items"):
        train_backbone(model(), empty, BackboneConfig(steps=1), seed=0)
