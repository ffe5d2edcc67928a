"""Embedding extraction: rows of all models belong to the same view, in a documented order, whatever the batch size."""

import numpy as np
import pytest
import torch

from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError
from fct_fast.models import StrideCNN
from fct_fast.training.embed import embed_views


@pytest.fixture
def views() -> AffineViews:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 10, 10), dtype=np.uint8)
    return AffineViews(pictures, np.array([0, 1, 1, 2, 0]), ViewConfig(size=10))


def test_rows_of_all_models_belong_to_the_same_view(views: AffineViews) -> None:
    models = {"a": StrideCNN(2, 3, 10).eval(), "b": StrideCNN(3, 4, 10).eval()}
    out = embed_views(models, views, copies=3, seed=1, batch_size=4, keep_images=True)
    assert out.items.tolist() == [0, 1, 2, 3, 4] * 3
    assert out.labels.tolist() == [0, 1, 1, 2, 0] * 3
    assert out.images is not None
    assert out.images.shape == (15, 1, 10, 10)
    for name, model in models.items():
        with torch.no_grad():
            expected = model(torch.from_numpy(out.images)).numpy()
        assert out.embeddings[name].dtype == np.float32
        np.testing.assert_allclose(out.embeddings[name], expected, atol=1e-5)
    assert not np.array_equal(out.images[0], out.images[5])  # another view of the same item


def test_the_seed_decides_the_views(views: AffineViews) -> None:
    first, again, other = (embed_views({}, views, copies=2, seed=seed, keep_images=True).images for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_mode_is_never_used(views: AffineViews) -> None:
    model = StrideCNN(2, 3, 10).train()
    before = model.features[1].running_mean.clone()
    embed_views({"a": model}, views, copies=1, seed=0)
    assert torch.equal(model.features[1].running_mean, before)


def test_bad_options_are_refused(views: AffineViews) -> None:
    with pytest.raises(ConfigError, match="copies >= 1"):
        embed_views({}, views, copies=0, seed=0)
