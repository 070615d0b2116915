"""The two exchangeable parts of the REG2025 score: one finds clinical entities, one embeds text.

The default parts need no model; the others load one that is already on this machine, and download nothing.
A part is chosen by name; what follows a colon is its argument: `lexical`, `spacy:en_core_sci_lg`,
`hashed-ngrams`, `transformers:/models/biobert-v1.1`.
"""

from __future__ import annotations

import importlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.evaluation.bootstrap import Floats
from histgen_lib.text.synoptic import parse_report

_Part = TypeVar("_Part")

DEFAULT_ENTITIES = "lexical"
DEFAULT_EMBEDDING = "hashed-ngrams"


class EntityPart(Protocol):
    """Finds the clinical keywords of a text."""

    def entities(self, text: str) -> frozenset[str]:
        """Return the keywords in `text`, lower-case, each once."""


class EmbeddingPart(Protocol):
    """Turns texts into vectors whose cosine measures how similar they are."""

    rescale_from: float
    """Cosines above this are rescaled to 0…1, as REG2025 does with 0.5; 0 leaves them unchanged."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one vector per text, float64[n, d]; a text without content may be the zero vector."""


_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*")
_BREAK = re.compile(r"[^\w\s'-]|\n")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be been but by for from has have in into is it its no not of on or other others "
        "specified than that the there these this those to was were which with within without"
    )
)
_MIN_CHARACTERS = 3  # REG2025 drops shorter entities
_MAX_WORDS = 3
_DIMENSIONS = 4096


class LexicalEntities:
    """Synoptic `name: value` pairs, and n-grams of up to three adjacent words that are not stop words."""

    def entities(self, text: str) -> frozenset[str]:
        """Return the keywords in `text`, lower-case, each once."""
        pairs = {f"{name}: {value}".lower() for name, value in parse_report(text).items() if value}
        grams = {" ".join(gram) for phrase in _phrases(text) for gram in _grams(phrase, _MAX_WORDS)}
        return frozenset(pairs | {gram for gram in grams if len(gram) >= _MIN_CHARACTERS})


class HashedNgrams:
    """Words, word pairs and character 4-grams, hashed into 4096 dimensions; square roots of counts."""

    rescale_from = 0.0

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one non-negative vector per text, float64[n, 4096]."""
        vectors = np.zeros((len(texts), _DIMENSIONS))
        for vector, text in zip(vectors, texts, strict=True):
            for feature, count in Counter(_features(text)).items():
                vector[zlib.crc32(feature.encode()) % _DIMENSIONS] += count
        return np.sqrt(vectors)


def _phrases(text: str) -> Iterator[list[str]]:
    """Yield runs of words between punctuation, line ends and stop words."""
    for piece in _BREAK.split(text.lower()):
        run: list[str] = []
        for word in _WORD.findall(piece):
            if word in _STOP_WORDS:
                yield run
                run = []
            else:
                run.append(word)
        yield run


def _grams(words: Sequence[str], longest: int) -> Iterator[Sequence[str]]:
    for size in range(1, longest + 1):
        for start in range(len(words) - size + 1):
            yield words[start : start + size]


def _features(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    for gram in _grams(words, 2):
        yield " ".join(gram)
    for word in words:
        framed = f"<{word}>"
        for start in range(len(framed) - 3):
            yield "#" + framed[start : start + 4]


_MAX_TOKENS = 512


class SpacyEntities:
    """Named entities of an installed spaCy pipeline (REG2025 uses scispaCy's `en_core_sci_lg`)."""

    def __init__(self, model: str) -> None:
        try:
            self._pipeline = _module("spacy").load(model)
        except (OSError, ValueError) as error:
            raise _missing(f"The spaCy pipeline {model!r} is not installed.") from error

    def entities(self, text: str) -> frozenset[str]:
        """Return the entities of at least three characters in `text`, lower-case, each once."""
        found = (str(entity.text) for entity in self._pipeline(text).ents)
        return frozenset(entity.lower() for entity in found if len(entity) >= _MIN_CHARACTERS)


class TransformersEmbedding:
    """Mean of the last hidden states of a local Hugging Face model, as REG2025 does with BioBERT 1.1."""

    rescale_from = 0.5

    def __init__(self, folder: str) -> None:
        library, path = _module("transformers"), _folder(folder)
        self._tokenizer = library.AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = library.AutoModel.from_pretrained(path, local_files_only=True).eval()

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one vector per text, float64[n, d]; text beyond 512 tokens is cut off."""
        return np.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Floats:
        with _module("torch").no_grad():
            inputs = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=_MAX_TOKENS)
            states: Any = self._model(**inputs).last_hidden_state
        return np.asarray(states.mean(dim=1).squeeze(0).numpy(), dtype=np.float64)


class SentenceEmbedding:
    """A local sentence-transformers model."""

    rescale_from = 0.0

    def __init__(self, folder: str) -> None:
        library, path = _module("sentence_transformers"), _folder(folder)
        self._model = library.SentenceTransformer(path, local_files_only=True)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one vector per text, float64[n, d]."""
        return np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float64)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(f"The Python package {name} is not installed.") from error


def _folder(path: str) -> str:
    if not Path(path).is_dir():
        raise _missing(f"There is no model folder {path!r}.")
    return path


def _missing(message: str) -> FatalError:
    return FatalError(
        "evaluation-part-missing",
        message,
        hint="Install it on this machine first (nothing is downloaded), or use the default parts.",
    )


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
    """Make an entity part available as `name` or `name:argument`; `factory` gets the argument."""
    _ENTITIES[name] = factory


def register_embedding(name: str, factory: Callable[[str], EmbeddingPart]) -> None:
    """Make an embedding part available as `name` or `name:argument`; `factory` gets the argument."""
    _EMBEDDINGS[name] = factory


def entity_part(name: str) -> EntityPart:
    """Load the entity part `name`.

    Raises InvalidInputError `evaluation-part-unknown`, FatalError `evaluation-part-missing`.
    """
    return _find(_ENTITIES, name, "entity")


def embedding_part(name: str) -> EmbeddingPart:
    """Load the embedding part `name`.

    Raises InvalidInputError `evaluation-part-unknown`, FatalError `evaluation-part-missing`.
    """
    return _find(_EMBEDDINGS, name, "embedding")


def _find(known: dict[str, Callable[[str], _Part]], name: str, kind: str) -> _Part:
    word, _, argument = name.partition(":")
    if word not in known:
        raise InvalidInputError(
            "evaluation-part-unknown",
            f"There is no {kind} part {name!r}.",
            hint=f"Known parts: {', '.join(sorted(known))}.",
        )
    return known[word](argument)
