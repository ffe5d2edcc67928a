"""StrideDecoder: from an embedding back to a picture, the mirror of StrideCNN. Needed for training only."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fct_fast.errors import ConfigError

__all__ = ["StrideDecoder"]

_PICTURE_STD = 0.25  # of a pixel between -0.5 and 0.5, roughly; where training starts


class StrideDecoder(nn.Module):
    """A linear map, then four transposed 3x3 convolutions that each double the picture; BatchNorm and ReLU between.

    A BatchNorm ends it too: without it the rate at which the last convolution is still stable is too low for the
    layers before.

    channels: width before the last convolution; the layers before it have 2, 4 and 4 times as many. Input float32
    [n, embedding_dim], output float32 [n, 1, image_size, image_size], for any image size that StrideCNN takes.
    """

    def __init__(self, channels: int, embedding_dim: int = 64, image_size: int = 28) -> None:
        super().__init__()
        if channels < 1 or embedding_dim < 1 or image_size < 8:
            raise ConfigError(
                f"StrideDecoder needs channels and embedding_dim >= 1 and image_size >= 8, "
                f"got {channels}, {embedding_dim} and {image_size}"
            )
        sizes = [image_size]  # from the picture down to the smallest map
        for _ in range(4):
            sizes.append((sizes[-1] + 1) // 2)
        widths = (4 * channels, 4 * channels, 2 * channels, channels, 1)
        smallest = sizes.pop()
        layers: list[nn.Module] = [
            nn.Linear(embedding_dim, widths[0] * smallest * smallest, bias=False),
            nn.Unflatten(1, (widths[0], smallest, smallest)),
        ]
        for (in_width, out_width), size in zip(pairwise(widths), reversed(sizes), strict=True):
            layers += [nn.BatchNorm2d(in_width), nn.ReLU(inplace=True)]
            # A convolution of stride 2 makes maps of size 2m - 1 and of size 2m both m wide.
            even = 1 - size % 2
            layers += [nn.ConvTranspose2d(in_width, out_width, 3, stride=2, padding=1, output_padding=even)]
        contrast = nn.BatchNorm2d(1)
        nn.init.constant_(contrast.weight, _PICTURE_STD)
        self.layers = nn.Sequential(*layers, contrast)

    def forward(self, embeddings: Tensor) -> Tensor:
        out: Tensor = self.layers(embeddings)
        return out
