"""StrideCNN: shapes for any image size, rows independent in eval mode, and refusals."""

import pytest
import torch

from fct_fast.errors import ConfigError
from fct_fast.models import ClassifierHead, ProjectionHead, StrideCNN


@pytest.mark.parametrize(("size", "channels", "dim"), [(8, 1, 1), (28, 8, 64), (33, 3, 17)])
def test_shapes(size: int, channels: int, dim: int) -> None:
    model = StrideCNN(channels, dim, size).eval()
    out = model(torch.randn(3, 1, size, size))
    assert out.shape == (3, dim) == (3, model.embedding_dim)
    assert ClassifierHead(dim, 5)(out).shape == (3, 5)
    assert ProjectionHead(dim, 7)(out).shape == (3, 7)


def test_a_row_does_not_depend_on_its_batch_in_eval_mode() -> None:
    model, images = StrideCNN(4).eval(), torch.randn(6, 1, 28, 28)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]))


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_size >= 8"):
        StrideCNN(4, image_size=4)
    with pytest.raises(ConfigError, match="channels"):
        StrideCNN(0)
