"""Embedding models and the heads they are trained with. A model is any torch module with an `embedding_dim`."""

from fct_fast.models.base import EmbeddingModel
from fct_fast.models.cnn import StrideCNN
from fct_fast.models.decoder import StrideDecoder
from fct_fast.models.heads import ClassifierHead, ExpanderHead, ProjectionHead

__all__ = ["ClassifierHead", "EmbeddingModel", "ExpanderHead", "ProjectionHead", "StrideCNN", "StrideDecoder"]
