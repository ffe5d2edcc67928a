"""The autoencoder: the loss is the squared error a pixel, and pictures it never saw can be drawn from embeddings."""

import numpy as np
import pytest
import torch

from fct_fast.data.digits import digit_items
from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError, ShapeError
from fct_fast.models import StrideCNN
from fct_fast.training.autoencoder import AutoencoderConfig, clean_views, train_autoencoder
from fct_fast.training.loop import seeded_initialisation


def digits(*, held_out: bool = False, **config: float) -> AffineViews:
    pictures, labels = digit_items(held_out=held_out)
    return AffineViews(pictures, labels, ViewConfig(size=8, **config))


def model(seed: int = 0) -> StrideCNN:
    with seeded_initialisation(seed):
        return StrideCNN(8, 16, 8)


def test_clean_views_are_the_pictures_themselves() -> None:
    views = digits()
    clean = clean_views(views)
    drawn = clean.draw(torch.tensor([5, 2, 5]), torch.Generator().manual_seed(1))
    pictures, labels = digit_items(held_out=False)
    expected = pictures[[5, 2, 5]].astype(np.float64) / 255 - 0.5
    np.testing.assert_allclose(drawn[:, 0].numpy(), expected, atol=1e-5)
    assert np.array_equal(clean.labels, labels)
    assert views.config == digits().config  # the views that were given stay as they are


@pytest.mark.parametrize("denoise", [False, True])
def test_it_draws_pictures_it_never_saw(denoise: bool) -> None:
    mild = {"rotation": 4.0, "shear": 0.0, "shift": 0.03, "noise": 0.05}
    views, unseen = digits(**mild), digits(held_out=True, **mild)
    net = model()
    config = AutoencoderConfig(100, batch_size=128, decoder_channels=8)
    result = train_autoencoder(net, views, config, seed=1, targets=clean_views(views) if denoise else None)
    items, generator = torch.arange(len(unseen)), torch.Generator().manual_seed(2)
    with torch.no_grad():
        seen = unseen.draw(items, generator)
        wanted = clean_views(unseen).draw(items, generator) if denoise else seen
        drawn = result.decoder(net(seen))
    constant = (wanted - wanted.mean(dim=0)).square().mean()  # the error of the best picture that reads no embedding
    assert (drawn - wanted).square().mean() < 0.7 * constant
    assert not net.training
    assert not result.decoder.training
    assert np.mean(result.losses[-10:]) < 0.7 * np.mean(result.losses[:10])


def test_the_first_loss_is_the_squared_error_of_a_pixel() -> None:
    """Recomputed in float64 from the same random numbers, which the target must have drawn after the view."""
    views = digits()
    clean, config = clean_views(views), AutoencoderConfig(1, batch_size=16, decoder_channels=2, learning_rate=1e-12)
    net = model()
    result = train_autoencoder(net, views, config, seed=4, targets=clean)
    generator = torch.Generator().manual_seed(4)
    batch = torch.randperm(len(views), generator=generator)[:16]
    seen, wanted = views.draw(batch, generator), clean.draw(batch, generator)
    with torch.no_grad():
        drawn = result.decoder.train()(net.train()(seen)).double().numpy()
    assert result.losses[0] == pytest.approx(np.square(drawn - wanted.double().numpy()).mean(), rel=1e-5)


def test_the_seed_alone_decides_and_labels_are_not_read() -> None:
    weights, state = [], torch.random.get_rng_state()
    pictures, labels = digit_items(held_out=False)
    for seed, named in ((7, labels), (7, np.zeros_like(labels) - 1), (8, labels)):
        net = model()
        views = AffineViews(pictures, named, ViewConfig(size=8))
        train_autoencoder(net, views, AutoencoderConfig(3, batch_size=16, decoder_channels=2), seed=seed)
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="decoder_channels"):
        AutoencoderConfig(1, decoder_channels=0)
    views, few = digits(), AffineViews(np.zeros((3, 8, 8), np.uint8), np.zeros(3, np.int64))
    none = AffineViews(np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ShapeError, match="and 3 targets"):
        train_autoencoder(model(), views, AutoencoderConfig(1), seed=0, targets=few)
    with pytest.raises(ShapeError, match="got 0 items"):
        train_autoencoder(model(), none, AutoencoderConfig(1), seed=0)

    class Wide(AffineViews):
        def draw(self, items: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return torch.zeros(len(items), 1, 8, 9)

    with pytest.raises(ShapeError, match=r"\[1, 8, 9\]"):
        train_autoencoder(model(), Wide(few._pictures.numpy(), few.labels), AutoencoderConfig(1), seed=0)
