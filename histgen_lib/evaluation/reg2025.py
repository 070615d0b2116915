"""The ranking score of the REG2025 challenge: 0.15 (ROUGE + BLEU) + 0.4 entities + 0.3 embedding.

Formula: the challenge's page "Submission & Evaluation"; the definitions of the four terms follow its
evaluation program. Reports are compared verbatim, whichever tokenizer the other metrics use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histgen_lib.evaluation.bootstrap import Floats, Statistic, mean
from histgen_lib.evaluation.captions import common_subsequence_length
from histgen_lib.evaluation.parts import (
    DEFAULT_EMBEDDING,
    DEFAULT_ENTITIES,
    EmbeddingPart,
    EntityPart,
    embedding_part,
    entity_part,
)

REG2025_NAMES = ("reg2025", "reg2025_rouge", "reg2025_bleu4", "reg2025_entities", "reg2025_embedding")
WEIGHTS = np.array([0.15, 0.15, 0.4, 0.3])
FORMULA = "0.15 * (ROUGE + BLEU4) + 0.4 * entities (Jaccard) + 0.3 * embedding (cosine)"


@dataclass(frozen=True)
class RegParts:
    """Names of the two exchangeable parts (`histgen_lib.evaluation.parts`)."""

    entities: str = DEFAULT_ENTITIES
    embedding: str = DEFAULT_EMBEDDING

    @property
    def comparable(self) -> bool:
        """Whether the parts are those of the challenge itself: its entities and its embedding model."""
        return self.entities == "spacy:en_core_sci_lg" and (
            self.embedding.startswith("transformers:") and self.embedding.rstrip("/").endswith("biobert-v1.1")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the formula, the parts, and whether the score compares with the challenge's leaderboard."""
        return {
            "formula": FORMULA,
            "entities": self.entities,
            "embedding": self.embedding,
            "comparable_with_leaderboard": self.comparable,
        }


def reg2025_scores(references: Sequence[str], predictions: Sequence[str], parts: RegParts) -> Floats:
    """Compute the score and its four terms for each pair, float64[n, 5], columns as in `REG2025_NAMES`.

    Raises InvalidInputError `evaluation-part-unknown`, FatalError `evaluation-part-missing`.
    """
    finder, embedder = entity_part(parts.entities), embedding_part(parts.embedding)
    columns = [
        [reg_rouge(r, p) for r, p in zip(references, predictions, strict=True)],
        [reg_bleu4(r, p) for r, p in zip(references, predictions, strict=True)],
        _overlaps(finder, references, predictions),
        _similarities(embedder, references, predictions),
    ]
    terms = np.array(columns, dtype=np.float64).T.reshape(-1, 4)
    return np.concatenate([(terms @ WEIGHTS)[:, None], terms], axis=1)


def reg2025(scores: Floats) -> Statistic:
    """Return the mean score and terms as a statistic over slides, from `reg2025_scores`."""
    return mean(REG2025_NAMES, scores)


def reg_rouge(reference: str, prediction: str) -> float:
    """Compute the F1 of the longest common subsequence of lower-cased words."""
    expected, words = reference.lower().split(), prediction.lower().split()
    common = common_subsequence_length(expected, words)
    return 2 * common / (len(expected) + len(words)) if common else 0.0


def reg_bleu4(reference: str, prediction: str) -> float:
    """Compute the challenge's four-gram precision: no brevity penalty, 0 below four words.

    Each occurrence of a four-gram counts the smaller of its two counts, so a four-gram that occurs twice in
    both texts counts four: the published program does so, and with repetitive reports it can exceed 1.
    """
    expected, found = _fourgrams(reference), _fourgrams(prediction)
    total = found.total()
    return sum(count * min(count, expected[gram]) for gram, count in found.items()) / total if total else 0.0


def _fourgrams(text: str) -> Counter[str]:
    words = text.split()
    return Counter(" ".join(words[start : start + 4]) for start in range(len(words) - 3))


def _overlaps(finder: EntityPart, references: Sequence[str], predictions: Sequence[str]) -> list[float]:
    found = {text: finder.entities(text) for text in dict.fromkeys([*references, *predictions])}
    return [_jaccard(found[r], found[p]) for r, p in zip(references, predictions, strict=True)]


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    union = len(first | second)
    return len(first & second) / union if union else 0.0


def _similarities(
    embedder: EmbeddingPart, references: Sequence[str], predictions: Sequence[str]
) -> list[float]:
    distinct = list(dict.fromkeys([*references, *predictions]))
    rows = {text: row for row, text in enumerate(distinct)}
    vectors = embedder.embed(distinct)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    first, second = (units[[rows[text] for text in side]] for side in (references, predictions))
    cosines = np.minimum((first * second).sum(axis=1), 1.0)
    low = embedder.rescale_from
    return [float(cosine) for cosine in np.where(cosines > low, (cosines - low) / (1 - low), cosines)]
