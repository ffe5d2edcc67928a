"""StrideCNN: a small convolutional embedding model, for demos and tests that must train on a CPU within a minute."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fct_fast.errors import ConfigError
from fct_fast.models.base import EmbeddingModel

__all__ = ["StrideCNN"]


class StrideCNN(EmbeddingModel):
    """Four 3x3 convolutions with BatchNorm and ReLU, each halving the image, then a linear map to the embedding.

    channels: width of the first convolution; the following have 2, 4 and 4 times as many. image_size: height and
    width of the input in pixels. Input float32 [n, 1, image_size, image_size], output float32 [n, embedding_dim].
    `capacity` is thus set by one number, which is how a weak old and a strong new model are made.
    """

    def __init__(self, channels: int, embedding_dim: int = 64, image_size: int = 28, relu: bool = True) -> None:
        super().__init__()
        if channels < 1 or embedding_dim < 1 or image_size < 8:
            raise ConfigError(
                f"StrideCNN needs channels and embedding_dim >= 1 and image_size >= 8, "
                f"got {channels}, {embedding_dim} and {image_size}"
            )
        self.embedding_dim = embedding_dim
        widths = (1, channels, 2 * channels, 4 * channels, 4 * channels)
        layers: list[nn.Module] = []
        side = image_size
        for in_width, out_width in pairwise(widths):
            layers += [nn.Conv2d(in_width, out_width, 3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(out_width), nn.ReLU(inplace=True)]
            side = (side + 1) // 2
        self.features = nn.Sequential(*layers)
        head = [nn.Flatten(), nn.Linear(widths[-1] * side * side, embedding_dim, bias=False)]
        head += [nn.BatchNorm1d(embedding_dim)]
        self.head = nn.Sequential(*head, *([nn.ReLU()] if relu else []))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(images))
        return out
