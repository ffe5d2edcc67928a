"""Views: what a random view keeps of its picture, what it changes, and that only the given generator decides."""

import numpy as np
import pytest
import torch

from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError, ShapeError

STILL = ViewConfig(size=12, rotation=0, scale=(1, 1), shear=0, shift=0, contrast=(1, 1), background=0, noise=0)


def pictures(n: int = 3, side: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)


def views_of(array: np.ndarray, config: ViewConfig) -> AffineViews:
    return AffineViews(array, np.arange(len(array), dtype=np.int64), config)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_view_without_alterations_is_the_picture() -> None:
    array = pictures()
    drawn = views_of(array, STILL).draw(torch.tensor([2, 0]), generator())
    assert drawn.shape == (2, 1, 12, 12)
    assert drawn.dtype == torch.float32
    np.testing.assert_allclose(drawn[:, 0].numpy(), array[[2, 0]] / 255 - 0.5, atol=1e-5)


def test_a_larger_canvas_is_scaled_down_to_the_view() -> None:
    array = np.zeros((1, 24, 24), np.uint8)
    array[:, :12] = 255  # the upper half is ink
    drawn = views_of(array, STILL).draw(torch.tensor([0]), generator())[0, 0]
    assert drawn[:6].min() == pytest.approx(0.5)
    assert drawn[6:].max() == pytest.approx(-0.5)


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_rotation_turns_in_degrees(degrees: float, monkeypatch: pytest.MonkeyPatch) -> None:
    array = pictures(1)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.ones(*a))  # every uniform draw is the upper end
    drawn = views_of(array, ViewConfig(**{**vars(STILL), "rotation": degrees})).draw(torch.tensor([0]), generator())
    turned = np.rot90(array[0], int(degrees / 90)) / 255 - 0.5
    np.testing.assert_allclose(drawn[0, 0].numpy(), turned, atol=1e-4)


def test_shift_is_a_share_of_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    array = pictures(1)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.ones(*a))
    drawn = views_of(array, ViewConfig(**{**vars(STILL), "shift": 0.25})).draw(torch.tensor([0]), generator())
    np.testing.assert_allclose(drawn[0, 0, :9, :9].numpy(), array[0, 3:, 3:] / 255 - 0.5, atol=1e-5)


def test_contrast_paper_and_noise_have_the_stated_size() -> None:
    config = ViewConfig(**{**vars(STILL), "size": 64, "contrast": (0.5, 0.5), "background": 0.2, "noise": 0.1})
    drawn = views_of(np.full((1, 64, 64), 255, np.uint8), config).draw(torch.zeros(400, dtype=torch.int64), generator())
    inner = drawn[:, 0, 2:-2, 2:-2]
    level = inner.mean(dim=(1, 2))  # ink 0.5, minus 0.5, plus paper in [0, 0.2]
    assert level.min() > -0.01
    assert level.max() < 0.21
    assert level.mean() == pytest.approx(0.1, abs=0.01)
    assert (inner - level[:, None, None]).std() == pytest.approx(0.1, abs=0.003)


def test_the_generator_alone_decides() -> None:
    views, items = views_of(pictures(), ViewConfig(size=12)), torch.tensor([0, 1, 2, 0])
    state = torch.random.get_rng_state()
    first, again, other = (views.draw(items, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[3])  # two views of one item differ
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="one label each"):
        AffineViews(pictures(3), np.zeros(2, np.int64))
    with pytest.raises(ConfigError, match="scale"):
        ViewConfig(scale=(0.0, 1.0))
    with pytest.raises(ConfigError, match="not negative"):
        ViewConfig(noise=-1)
