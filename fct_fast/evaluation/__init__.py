"""Judging a space: exact retrieval metrics with labels (`evaluate`, `top_metrics`), and agreement with the new space
without (`overlap`)."""

from fct_fast.evaluation.overlap import Overlap, overlap
from fct_fast.evaluation.rank import Evaluation, evaluate, rank_scores
from fct_fast.evaluation.top import TopMetrics, top_metrics, top_metrics_of_scores

__all__ = [
    "Evaluation",
    "Overlap",
    "TopMetrics",
    "evaluate",
    "overlap",
    "rank_scores",
    "top_metrics",
    "top_metrics_of_scores",
]
