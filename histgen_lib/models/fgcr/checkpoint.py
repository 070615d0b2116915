"""Writing and reading a model folder's retrieval network with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.models.fgcr.serving import retrieval_config
from histgen_lib.models.fgcr.words import Words
from histgen_lib.models.folder import (
    RETRIEVAL_WEIGHTS,
    RETRIEVAL_WORDS,
    ModelFolder,
    open_model_folder,
)
from histgen_lib.models.histgen.checkpoint import load_network, save_weights, update_config


def save_retrieval(
    folder: Path, network: Fgcr, words: Words, *, half: bool = False, **section: Any
) -> ModelFolder:
    """Write a retrieval network into a model folder, in place of the one there; return the folder.

    `half` stores float16, half the size; once loaded, the network still computes in float32. `section`: what
    else the section "retrieval" of config.json shall say (prompts, training, thresholds). The ONNX files are
    then to be written: `histgen_lib.export.onnx.retrieval_to_onnx`.
    """
    save_weights(folder / RETRIEVAL_WEIGHTS, network, half=half)
    words.save(folder / RETRIEVAL_WORDS)
    return update_config(folder, retrieval={**section, "network": network.config.to_json()})


def load_retrieval(folder: Path) -> Fgcr:
    """Load the retrieval network of a model folder, in evaluation mode on the CPU.

    Raises FatalError: "model-missing", "model-config", "model-incomplete", "model-weights".
    """
    opened = open_model_folder(folder)
    config = retrieval_config(opened)
    return load_network(lambda: Fgcr(config), opened.file(RETRIEVAL_WEIGHTS))
