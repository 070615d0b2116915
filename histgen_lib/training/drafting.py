"""Drafts by the torch weights themselves, for any variant: what a comparison scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.models.folder import ModelFolder
from histgen_lib.models.histgen import HistGen, tile_order
from histgen_lib.models.histgen.decoding import Decoded, decode
from histgen_lib.models.histgen.network import TorchStepper
from histgen_lib.models.histgen.runner import EncodedSlide, tile_evidence
from histgen_lib.pipeline.draft.sentences import Generated, make_sentences, token_spans
from histgen_lib.pipeline.model import report_model
from histgen_lib.training.data import prepare
from histgen_lib.training.settings import Variant


def draft_bags(
    model: HistGen, opened: ModelFolder, variant: Variant, owner_id: str, bags: Sequence[Bag]
) -> dict[str, Any]:
    """Draft one slide, or the slides of a case: {"slide_id", "text", "sentences"} as in draft.json.

    Decoding settings and calibration are the folder's. A mean-pooled draft has no evidence: it saw one tile.
    """
    decoded, evidence = _decode(model, opened, variant, bags)
    tokens = decoded.tokens.tolist()
    made = Generated(
        text=opened.tokenizer.decode(tokens),
        spans=token_spans(tokens, opened.tokenizer),
        logprobs=decoded.log_probs,
        evidence=evidence,
    )
    sentences, _ = make_sentences(made, bags, report_model(opened), named=len(bags) > 1)
    listed = [sentence.model_dump(mode="json") for sentence in sentences]
    return {"slide_id": owner_id, "text": made.text, "sentences": listed}


def _decode(
    model: HistGen, opened: ModelFolder, variant: Variant, bags: Sequence[Bag]
) -> tuple[Decoded, NDArray[np.float32]]:
    """Tokens, and evidence float32[T, N] over the bags' tiles as they came (zeros when mean-pooled)."""
    features = torch.from_numpy(prepare(bags, variant))[None]
    with torch.no_grad():
        memory = model.region_memory(features, torch.ones(features.shape[:2], dtype=torch.bool))
        decoded = decode(TorchStepper(model, memory), opened.decoding)[0]
    if variant == "mean-pooled":
        return decoded, np.zeros((len(decoded.tokens), sum(map(len, bags))), dtype=np.float32)
    encoded = EncodedSlide(memory.tile_weights[0].numpy(), np.zeros(0, dtype=np.float32))
    starts = np.cumsum([0, *map(len, bags)])
    order = [start + _order(variant, bag) for start, bag in zip(starts, bags, strict=False)]
    return decoded, tile_evidence(decoded, encoded, np.concatenate(order))


def _order(variant: Variant, bag: Bag) -> NDArray[np.int64]:
    """Rows of a bag in the order in which `prepare` gives them to the network."""
    if variant == "published" or not bag.has_places:
        return np.arange(len(bag))
    return tile_order(bag.xy, bag.span_px)
