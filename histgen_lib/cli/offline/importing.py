"""Model folders from weights trained with the authors' HistGen code. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.export import to_onnx
from histgen_lib.files import whole_folder
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen import load_official
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.text.tokenizers import WordTokenizer
from histgen_lib.training import read_annotation


@dataclass(frozen=True)
class OfficialSource:
    """Weights in the published format, and the facts that they do not contain.

    `sizes` are those of `load_official`; None takes one from the weights, or fails if they do not reveal it.
    """

    checkpoint: Path
    annotation: Path
    threshold: int
    sizes: Mapping[str, int | None]
    tiling: Mapping[str, Any]
    encoder: str


def import_weights(source: OfficialSource, folder: Path, name: str) -> ModelFolder:
    """Write a complete model folder, or nothing.

    Raises InvalidInputError: "import-output-exists", "import-vocabulary-mismatch", those of `load_official`.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InvalidInputError(
            "import-output-exists",
            f"{folder} is not empty.",
            hint="Choose a new folder for the imported model.",
        )
    # The authors count the words of the training split only (modules/tokenizers.py).
    reports = [case.report for case in read_annotation(source.annotation).train]
    tokenizer = WordTokenizer.train(reports, threshold=source.threshold)
    model = load_official(source.checkpoint, source.sizes)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InvalidInputError(
            "import-vocabulary-mismatch",
            f"The weights have {model.config.vocab_size} words, the annotation {tokenizer.vocab_size}.",
            hint="Use the annotation file and --threshold of the training; "
            "the words of its train split are counted.",
        )
    with whole_folder(folder) as target:
        new_model_folder(
            target,
            name=name,
            synthetic=False,
            config=model.config,
            tokenizer=tokenizer,
            tiling=source.tiling,
            encoder={"name": source.encoder, "sha256": "", "dim": model.config.input_dim},
        )
        save_model(target, model)
        to_onnx(target)
    return open_model_folder(folder)
