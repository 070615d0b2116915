"""Parts of the REG2025 score that load a model already on this machine. Nothing is ever downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histgen_lib.errors import FatalError
from histgen_lib.evaluation.bootstrap import Floats

_MIN_CHARACTERS = 3  # REG2025 drops shorter entities
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
        """Return one vector a text, float64[n, d]; text beyond 512 tokens is cut off."""
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
        """Return one vector a text, float64[n, d]."""
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
