"""From decoder steps to sentences: which tokens make up a line, how sure it is, which tiles it rests on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.pipeline.model import ReportModel, ReportStatistic
from histgen_lib.reports.record import EvidenceTile, Sentence, Token
from histgen_lib.text.synoptic import split_sentences
from histgen_lib.text.tokenizers import Tokenizer

TOP_TILES = 4
"""Evidence tiles kept for each sentence: as many as fit beside a line and can be checked in a few seconds."""


@dataclass(frozen=True)
class Generated:
    """The decoder's output: T steps over N tiles.

    spans     the characters of `text` that each token wrote, (start, end)
    logprobs  float32[T], natural logarithms
    evidence  float32[T, N], rows sum to 1
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    logprobs: NDArray[np.float32]
    evidence: NDArray[np.float32]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], tokenizer: Tokenizer) -> Generated:
        """Read the server's response for "histgen"; what follows an end token is dropped."""
        tokens = [int(token) for token in tensors["tokens"]]
        kept = tokens.index(0) if 0 in tokens else len(tokens)
        return cls(
            text=tokenizer.decode(tokens[:kept]),
            spans=token_spans(tokens[:kept], tokenizer),
            logprobs=np.asarray(tensors["logprobs"][:kept], dtype=np.float32),
            evidence=np.asarray(tensors["evidence"][:kept], dtype=np.float32),
        )


def token_spans(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[tuple[int, int], ...]:
    """Return the characters that each token adds, by decoding longer and longer prefixes."""
    ends = [0]
    for count in range(1, len(tokens) + 1):
        ends.append(max(ends[-1], len(tokenizer.decode(tokens[:count]))))
    return tuple(pairwise(ends))


@dataclass(frozen=True, eq=False)
class TilePlaces:
    """Where the tiles of some bags lie. Rows count through all bags; `starts`: the first row of each, and N.

    `named`: with the slide's id.
    """

    bags: tuple[Bag, ...]
    named: bool
    starts: tuple[int, ...]

    def tile(self, row: int, weight: float) -> EvidenceTile:
        """Return the tile in this row as evidence."""
        which = bisect_right(self.starts, row) - 1
        bag, x_y = self.bags[which], self.bags[which].xy[row - self.starts[which]]
        return EvidenceTile(
            x=int(x_y[0]),
            y=int(x_y[1]),
            span_px=round(float(bag.span_px), 3),
            weight=round(min(weight, 1.0), 4),
            slide_id=bag.slide_id if self.named else None,
        )


def make_sentences(
    generated: Generated, bags: Sequence[Bag], model: ReportModel, *, named: bool = False
) -> tuple[tuple[Sentence, ...], NDArray[np.float32]]:
    """Make the sentences, and the evidence of each over the tiles of all bags: float32[S, N], rows sum to 1.

    With `named` each evidence tile says which slide it lies on.
    """
    places = TilePlaces(tuple(bags), named, tuple(accumulate(map(len, bags), initial=0)))
    parts = [_sentence(generated, span, places, model) for span in split_sentences(generated.text)]
    tiles = places.starts[-1]
    weights = np.stack([w for _, w in parts]) if parts else np.zeros((0, tiles), dtype=np.float32)
    return tuple(sentence for sentence, _ in parts), weights


def report_confidence(
    sentences: Sequence[Sentence], fields: Mapping[str, str], statistic: ReportStatistic
) -> float:
    """Return the confidence of the whole draft from those of its sentences; 0 if they have none."""
    values = [s.confidence for s in sentences if s.confidence is not None]
    if not values:
        return 0.0
    if statistic == "mean":
        return float(np.mean(values))
    diagnosis = fields.get("diagnosis")
    stating = [v for s, v in zip(sentences, values, strict=True) if diagnosis and diagnosis in s.text]
    return stating[0] if statistic == "diagnosis" and stating else min(values)


def _sentence(
    generated: Generated, span: tuple[int, int], places: TilePlaces, model: ReportModel
) -> tuple[Sentence, NDArray[np.float32]]:
    start, end = span
    chosen = [i for i, (a, b) in enumerate(generated.spans) if a < end and b > start]
    weights = _tile_weights(generated.evidence[_stating(generated, chosen, span)])
    calibration = model.calibration
    confidence = round(calibration.confidence(generated.logprobs[chosen]), 4) if calibration.known else None
    sentence = Sentence(
        text=generated.text[start:end],
        start=start,
        end=end,
        confidence=confidence,
        uncertain=confidence is not None and confidence < model.sentence_threshold,
        tokens=tuple(_token(generated, i, span) for i in chosen),
        evidence=_strongest(weights, places),
        evidence_check=model.evidence.check(generated.text[start:end]),
    )
    return sentence, weights


def _stating(generated: Generated, chosen: Sequence[int], span: tuple[int, int]) -> list[int]:
    """Return the tokens of a "Name: value" line that state the value; the name is part of the form."""
    _, colon, value = generated.text[slice(*span)].partition(":")
    start = span[1] - len(value.lstrip())
    return [i for i in chosen if colon and generated.spans[i][1] > start] or list(chosen)


def _tile_weights(evidence: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(evidence) == 0:
        return np.zeros(evidence.shape[1], dtype=np.float32)
    return np.asarray(evidence.mean(axis=0, dtype=np.float64), dtype=np.float32)


def _token(generated: Generated, index: int, span: tuple[int, int]) -> Token:
    start, end = generated.spans[index]
    probability = float(np.exp(min(float(generated.logprobs[index]), 0.0)))
    return Token(start=max(start, span[0]), end=min(end, span[1]), probability=round(probability, 4))


def _strongest(weights: NDArray[np.float32], places: TilePlaces) -> tuple[EvidenceTile, ...]:
    """Return the strongest tiles, ties by their order in the bags; none if a bag does not know places."""
    if not all(bag.has_places for bag in places.bags):
        return ()
    order = np.argsort(-weights, kind="stable")[:TOP_TILES]
    return tuple(places.tile(int(i), float(weights[i])) for i in order if weights[i] > 0)
