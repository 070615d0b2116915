"""A model folder from weights that the authors' HistGen code trained. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.export import to_onnx
from histgen_lib.models.histgen import load_official
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.models.histgen.folder import ModelFolder, open_model_folder
from histgen_lib.text.word import WordTokenizer
from histgen_lib.training import read_annotation


@dataclass(frozen=True)
class OfficialSource:
    """Published-style weights, and what they do not say about themselves."""

    checkpoint: Path
    annotation: Path
    threshold: int
    sizes: Mapping[str, int]
    tiling: Mapping[str, Any]
    encoder: str


def import_weights(source: OfficialSource, folder: Path, name: str) -> ModelFolder:
    """Write a complete model folder.

    Raises InvalidInputError: "import-output-exists", "import-vocabulary-mismatch", those of `load_official`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInputError(
            "import-output-exists",
            f"{folder} is not empty.",
            hint="Name a new folder for the imported model.",
        )
    # The authors count the words of the training split only (modules/tokenizers.py).
    reports = [case.report for case in read_annotation(source.annotation).train]
    tokenizer = WordTokenizer.train(reports, threshold=source.threshold)
    model = load_official(source.checkpoint, source.sizes)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InvalidInputError(
            "import-vocabulary-mismatch",
            f"The weights know {model.config.vocab_size} words, the annotation gives {tokenizer.vocab_size}.",
            hint="Give the annotation file and the --threshold that the weights were trained with: "
            "the words of its train split are counted.",
        )
    new_model_folder(
        folder,
        name=name,
        synthetic=False,
        config=model.config,
        tokenizer=tokenizer,
        tiling=source.tiling,
        encoder={"name": source.encoder, "sha256": "", "dim": model.config.input_dim},
    )
    save_model(folder, model)
    to_onnx(folder)
    return open_model_folder(folder)
