"""Scoring retrieval: how many of the first hits are relevant, with intervals and the level of chance."""

from histgen_lib.evaluation.retrieval.metrics import Ranked, RetrievalScore, rank, score_ranked
from histgen_lib.evaluation.retrieval.regions import EvidencePairs, RegionCase, score_regions
from histgen_lib.evaluation.retrieval.relevance import field_labels, read_labels, relevance

__all__ = [
    "EvidencePairs",
    "Ranked",
    "RegionCase",
    "RetrievalScore",
    "field_labels",
    "rank",
    "read_labels",
    "relevance",
    "score_ranked",
    "score_regions",
]
