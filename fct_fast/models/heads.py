"""Heads: small networks on top of an embedding that exist for training only."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ClassifierHead", "ExpanderHead", "ProjectionHead"]


class ClassifierHead(nn.Module):
    """[n, embedding_dim] -> [n, classes]: one linear map without bias, the FCT paper's 1x1 convolution."""

    def __init__(self, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, classes, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        out: Tensor = self.linear(embeddings)
        return out


class ProjectionHead(nn.Module):
    """SimCLR's two-layer head (Chen et al., ICML 2020, section 2): [n, embedding_dim] -> [n, projection_dim].

    The contrastive loss reads its output; what is kept as side-information is its input.
    """

    def __init__(self, embedding_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim), nn.ReLU(), nn.Linear(embedding_dim, projection_dim)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        out: Tensor = self.layers(embeddings)
        return out


class ExpanderHead(nn.Module):
    """VICReg's three-layer head (Bardes et al., ICLR 2022): [n, embedding_dim] -> [n, expander_dim].

    BatchNorm and ReLU after all layers but the last. The loss reads its output; what is kept is its input.
    """

    def __init__(self, embedding_dim: int, expander_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_dim in (embedding_dim, expander_dim):
            layers += [nn.Linear(in_dim, expander_dim), nn.BatchNorm1d(expander_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(expander_dim, expander_dim, bias=False))

    def forward(self, embeddings: Tensor) -> Tensor:
        out: Tensor = self.layers(embeddings)
        return out
