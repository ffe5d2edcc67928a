"""What the training loops ask of an embedding model."""

from __future__ import annotations

from torch import nn

__all__ = ["EmbeddingModel"]


class EmbeddingModel(nn.Module):
    """A module that maps images float32 [n, channels, height, width] to embeddings float32 [n, embedding_dim].

    Any module with this attribute will do; the class is there for the type checker and for readers.
    """

    embedding_dim: int
