"""What decides which weights of the retrieval network are the best: every corpus of reports gives a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_bags import DIM, planted_bag, report
from tiny_retrieval import tiny_config

from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.models.fgcr.words import Words
from histgen_lib.training.retrieval.data import Batcher, SlideExample
from histgen_lib.training.retrieval.settings import SlideAugment
from histgen_lib.training.retrieval.validation import Validator

FREE = [f"Seen in case {name}, a tumour of the colon." for name in "abcdefgh"]
SYNOPTIC = [report(row % 2, row // 2 % 2) for row in range(8)]


def validator(train: Sequence[str], held_out: Sequence[str]) -> tuple[Validator, Fgcr]:
    words = Words.train([*train, *held_out], limit=64)
    torch.manual_seed(0)
    network = Fgcr(tiny_config(DIM, words.vocab_size))

    def batcher(reports: Sequence[str]) -> Batcher:
        bags = [planted_bag(str(row), np.random.default_rng(row), 0, 0) for row in range(len(reports))]
        examples = [
            SlideExample(str(row), text, Path("none"), held=bag)
            for row, (text, bag) in enumerate(zip(reports, bags, strict=True))
        ]
        cpu = torch.device("cpu")
        return Batcher(examples, words, (), network.config, SlideAugment(), 0.0, 0, cpu)

    return Validator(batcher(train), batcher(held_out)), network


def test_reports_of_a_kind_are_looked_for_in_the_training_split() -> None:
    scored, network = validator(SYNOPTIC, SYNOPTIC[:4])
    assert scored.relevant.sum(axis=1).tolist() == [4] * 4
    tasks = {f"val_{one}_{other}" for one in ("image", "text") for other in ("image", "text")}
    assert set(scored.score(network)) == {"val_map", *tasks}


@pytest.mark.parametrize("train", [FREE[:4], [*FREE[:4], FREE[4]]])
def test_slides_with_free_text_look_for_their_own_report(train: list[str]) -> None:
    """Also where one report in four has its like: the score of a single slide says little."""
    scored, network = validator(train, FREE[4:])
    scores = scored.score(network)
    assert set(scores) == {"val_map", "val_image_text", "val_text_image"}
    assert all(math.isfinite(value) and value > 0 for value in scores.values())
