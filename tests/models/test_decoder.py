"""StrideDecoder: any image size comes out as it went in, and every part of the embedding reaches the picture."""

import pytest
import torch

from fct_fast.errors import ConfigError
from fct_fast.models import ExpanderHead, StrideCNN, StrideDecoder


@pytest.mark.parametrize("size", [8, 9, 15, 16, 17, 28, 33])
def test_it_mirrors_the_encoder(size: int) -> None:
    encoder, decoder = StrideCNN(2, 5, size), StrideDecoder(2, 5, size)
    images = torch.randn(3, 1, size, size)
    assert decoder(encoder(images)).shape == images.shape
    assert ExpanderHead(5, 7)(encoder(images)).shape == (3, 7)


def test_the_picture_reads_the_whole_embedding() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder, embedding = StrideDecoder(8, 5, 16).eval(), torch.randn(4, 5, requires_grad=True)
    decoder(embedding).square().sum().backward()
    assert embedding.grad is not None
    assert (embedding.grad != 0).all()


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_size >= 8"):
        StrideDecoder(4, image_size=4)
    with pytest.raises(ConfigError, match="channels"):
        StrideDecoder(0)
