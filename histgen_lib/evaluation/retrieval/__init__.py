"""Scoring retrieval: how many of the first hits are relevant, with intervals and the level of chance."""

from histgen_lib.evaluation.retrieval.metrics import Ranked, RetrievalScore, difference, rank, score_ranked
from histgen_lib.evaluation.retrieval.regions import (
    EvidencePairs,
    RegionCase,
    lesions_of,
    nearest_by_region,
    score_regions,
)
from histgen_lib.evaluation.retrieval.relevance import field_labels, read_labels, relevance
from histgen_lib.evaluation.retrieval.tasks import Collection, Sought, TaskScores, score_tasks, similarities

__all__ = [
    "Collection",
    "EvidencePairs",
    "Ranked",
    "RegionCase",
    "RetrievalScore",
    "Sought",
    "TaskScores",
    "difference",
    "field_labels",
    "lesions_of",
    "nearest_by_region",
    "rank",
    "read_labels",
    "relevance",
    "score_ranked",
    "score_regions",
    "score_tasks",
    "similarities",
]
