"""A tiny retrieval network for tests' tiny model: random weights, or ones that learned a few diagnoses."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tiny_model import REPORTS, tiny_model

from histgen_lib.export.onnx import retrieval_to_onnx
from histgen_lib.models.fgcr.anchors import find_regions
from histgen_lib.models.fgcr.batches import hidden_words, slides_of, texts_of
from histgen_lib.models.fgcr.checkpoint import save_retrieval
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.losses import Batch, corrected_losses
from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.models.fgcr.words import Words
from histgen_lib.models.folder import open_model_folder

SPAN_PX = 256
KINDS = ("Fibroadenoma", "Invasive carcinoma", "Adenocarcinoma", "Melanoma")
"""What the slides of `planted_bag` have, by number; `report_of` says so."""


@cache
def tiny_retrieval_model(*, trained: bool = False) -> Path:
    """Return a copy of the tiny model with a retrieval network, shared by all tests: do not change it."""
    folder = Path(tempfile.mkdtemp(prefix="histgen-tiny-retrieval-")) / "tiny"
    shutil.copytree(tiny_model(), folder)
    return add_retrieval(folder, trained=trained)


def add_retrieval(folder: Path, *, trained: bool = False, mode: str = "corrected", seed: int = 0) -> Path:
    """Add a retrieval network to a model folder, with its ONNX files; return the folder.

    Trained, it tells the slides of `planted_bag` apart (for features of the tiny model's width; seconds).
    """
    torch.manual_seed(seed)
    words = Words.train([*REPORTS, *map(report_of, range(len(KINDS)))], limit=64)
    network = Fgcr(tiny_config(open_model_folder(folder).histgen.input_dim, words.vocab_size, mode=mode))
    if trained:
        _train(network, words)
    save_retrieval(folder, network.eval(), words, prompts=list(KINDS))
    retrieval_to_onnx(folder)
    return folder


def tiny_config(input_dim: int, vocab_size: int, **changes: object) -> FgcrConfig:
    """Return the sizes of a network that trains in seconds."""
    sizes = {
        "input_dim": input_dim, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 24,
        "vocab_size": vocab_size, "word_dim": 12, "text_heads": 2, "text_layers": 1, "text_ff": 24,
        "max_words": 64, "prompt_num": len(KINDS), "embed_dim": 16, "dropout": 0.0, "text_dropout": 0.0,
    }  # fmt: skip
    return FgcrConfig.from_json(sizes | changes)


def report_of(kind: int) -> str:
    """Return the report of a slide of `planted_bag`."""
    return f"Specimen, biopsy:\n  {KINDS[kind]}\n  - Grade: {kind}"


def planted_bag(
    kind: int, seed: int, *, dim: int = 16, side: int = 9
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """Make a slide of side × side tiles of which a square of 3 × 3 differs, as its kind has it.

    Returns features float32[N, dim], xy int32[N, 2] and the square's box in level-0 px.
    """
    rng = np.random.default_rng([kind, seed])
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    features = rng.normal(size=(len(grid), dim))
    corner = rng.integers(0, side - 2, 2)
    inside = ((grid >= corner) & (grid < corner + 3)).all(axis=1)
    features[inside] += 3 * np.random.default_rng(kind).normal(size=dim)
    x, y = (int(one) * SPAN_PX for one in corner)
    xy = (grid * SPAN_PX).astype(np.int32)
    return features.astype(np.float32), xy, (x, y, 3 * SPAN_PX, 3 * SPAN_PX)


def planted_batch(network: Fgcr, words: Words, kinds: np.ndarray, seed: int) -> Batch:
    """Make a batch of such slides with their reports; prompts are the kinds, sentences the reports' lines."""
    bags = [
        planted_bag(int(kind), seed + row, dim=network.config.input_dim) for row, kind in enumerate(kinds)
    ]
    regions = [find_regions(xy, SPAN_PX, network.config) for _, xy, _ in bags]
    slides = slides_of([(bag[0], region) for bag, region in zip(bags, regions, strict=True)])
    texts = texts_of([words.encode(report_of(int(kind))) for kind in kinds])
    phrases = texts_of([words.encode(kind) for kind in KINDS])
    own = torch.from_numpy(kinds[:, None] == np.arange(len(KINDS)))
    return Batch(
        slides,
        texts,
        phrases,
        own.float(),
        hidden_words(texts, 0.15, torch.Generator().manual_seed(seed)),
        torch.from_numpy(kinds.astype(np.int64)),
        phrases,
        own,
    )


def _train(network: Fgcr, words: Words) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for step in range(50):
        batch = planted_batch(network, words, rng.integers(0, len(KINDS), 12), 100 * step)
        optimiser.zero_grad()
        corrected_losses(network, batch)["total"].backward()
        optimiser.step()
