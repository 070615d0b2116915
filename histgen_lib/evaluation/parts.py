"""The two exchangeable parts of the REG2025 score: who finds the clinical entities, who embeds the text.

The default parts need no download. A part is chosen by name; what stands after a colon is its argument:
`lexical`, `spacy:en_core_sci_lg`, `hashed-ngrams`, `transformers:/models/biobert-v1.1`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation._lexical import HashedNgrams, LexicalEntities
from histgen_lib.evaluation._pretrained import SentenceEmbedding, SpacyEntities, TransformersEmbedding
from histgen_lib.evaluation.bootstrap import Floats

_Part = TypeVar("_Part")

DEFAULT_ENTITIES = "lexical"
DEFAULT_EMBEDDING = "hashed-ngrams"


class EntityPart(Protocol):
    """Finds the clinical keywords of a text."""

    def entities(self, text: str) -> frozenset[str]:
        """Return the keywords in `text`, lower-case, each once."""


class EmbeddingPart(Protocol):
    """Turns texts into vectors whose cosine says how near their meanings are."""

    rescale_from: float
    """Cosines above this are stretched to 0…1, as REG2025 does with 0.5; 0 leaves them as they are."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one vector a text, float64[n, d]; a text without content may be the zero vector."""


_ENTITIES: dict[str, Callable[[str], EntityPart]] = {
    DEFAULT_ENTITIES: lambda _: LexicalEntities(),
    "spacy": SpacyEntities,
}
_EMBEDDINGS: dict[str, Callable[[str], EmbeddingPart]] = {
    DEFAULT_EMBEDDING: lambda _: HashedNgrams(),
    "transformers": TransformersEmbedding,
    "sentence-transformers": SentenceEmbedding,
}


def register_entities(name: str, factory: Callable[[str], EntityPart]) -> None:
    """Make an entity part available as `name` or `name:argument`; `factory` is given the argument."""
    _ENTITIES[name] = factory


def register_embedding(name: str, factory: Callable[[str], EmbeddingPart]) -> None:
    """Make an embedding part available as `name` or `name:argument`; `factory` is given the argument."""
    _EMBEDDINGS[name] = factory


def entity_part(name: str) -> EntityPart:
    """Load the entity part called `name`.

    Raises InvalidInputError `evaluation-part-unknown`, FatalError `evaluation-part-missing`.
    """
    return _find(_ENTITIES, name, "entity")


def embedding_part(name: str) -> EmbeddingPart:
    """Load the embedding part called `name`.

    Raises InvalidInputError `evaluation-part-unknown`, FatalError `evaluation-part-missing`.
    """
    return _find(_EMBEDDINGS, name, "embedding")


def _find(known: dict[str, Callable[[str], _Part]], name: str, kind: str) -> _Part:
    word, _, argument = name.partition(":")
    if word not in known:
        raise InvalidInputError(
            "evaluation-part-unknown",
            f"There is no {kind} part called {name!r}.",
            hint=f"Known parts: {', '.join(sorted(known))}.",
        )
    return known[word](argument)
