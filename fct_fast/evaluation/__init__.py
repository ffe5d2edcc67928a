"""Judging a space: exact retrieval metrics with labels (`evaluate`), and agreement with the new space without
(`overlap`)."""

from fct_fast.evaluation.overlap import Overlap, overlap
from fct_fast.evaluation.rank import Evaluation, evaluate, rank_scores

__all__ = ["Evaluation", "Overlap", "evaluate", "overlap", "rank_scores"]
