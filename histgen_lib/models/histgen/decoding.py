"""Choosing the words: greedy, beam and sampling search over a step interface that any engine can offer.

Torch-free. A `Stepper` holds a batch of encoded slides; each step takes one token for each of S slides with B
beams and returns log-probabilities of the next. A `BeamEngine` also chooses the beams by itself, on a device
that it need not wait for; the host follows, and decides when the search is over. All methods treat every
slide on its own: a slide's text is the same alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypedDict, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.histgen.choosing import Chooser

END = 0
"""Begin, end and padding share id 0."""

FINISHED_PENALTY = np.float32(1000.0)
"""Subtracted from a beam's score once it has ended, as published: it keeps its place, but never grows."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Method = Literal["beam", "greedy", "sample"]

REQUEST_SETTINGS = {
    "beam_size": "int32",
    "max_tokens": "int32",
    "temperature": "float32",
    "top_k": "int32",
    "top_p": "float32",
    "seed": "int64",
    "method": "str",
}
"""Those of `DecodingSettings` that a request to a server may set, and their dtypes there."""

Cache = TypeVar("Cache")
"""What an engine keeps of the tokens so far; only its own stepper reads it."""


class Step(NamedTuple, Generic[Cache]):
    """Result of a step: log-probs float32[S, B, V+1], attention over regions float32[S, B, R], cache."""

    log_probs: Floats
    attention: Floats
    cache: Cache


class Stepper(Protocol[Cache]):
    """A batch of encoded slides, for which text can be generated step by step."""

    def start(self) -> Cache:
        """Make the cache before the first token: S slides with one beam each."""
        ...

    def step(self, tokens: Ints, cache: Cache) -> Step[Cache]:
        """Feed tokens int64[S, B], the next ones after those in `cache`."""
        ...

    def select(self, cache: Cache, slides: Ints, beams: Ints) -> Cache:
        """Keep slides int64[S'] (rows of the cache), and of each the beams int64[S', B'], in that order."""
        ...

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        ...


class Continuations(NamedTuple):
    """One round of beam search for S slides: the beams chosen, each a beam of the round before and a word.

    `tokens` int64[S, B], the words; `parents` int64[S, B], the beams that they continue; `chosen`
    float32[S, B], the words' log-probabilities.
    """

    tokens: Ints
    parents: Ints
    chosen: Floats


class BeamEngine(Protocol):
    """A batch of encoded slides on a device that searches by itself."""

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        ...

    def search(self, beams: int, max_tokens: int) -> Iterator[Continuations]:
        """Yield one round after the other, of all slides, as `_search` would choose; `max_tokens` in all.

        Whoever follows may stop before the end. `beams` is at most the number of words.
        """
        ...

    def looked(self, beams: Sequence[Ints]) -> list[Floats]:
        """Return what a beam of each slide looked at: float32[T, R] for its numbers int64[T], one a round."""
        ...


class DecodingChanges(TypedDict, total=False):
    """Fields of `DecodingSettings` to replace; None leaves a field as it is."""

    method: Method | None
    beam_size: int | None
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    block_trigrams: bool | None


@dataclass(frozen=True)
class DecodingSettings:
    """How to choose words. Raises InvalidInputError("decoding-settings") for impossible settings.

    `max_tokens` counts words, the end token included. `temperature`, `top_k` (0: all), `top_p` (1: all) and
    `seed` matter to "sample" only; `block_trigrams` to "greedy" only (in the published beam search it changed
    nothing).
    """

    method: Method = "beam"
    beam_size: int = 3
    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    block_trigrams: bool = False

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, holds in {
                "method": self.method in {"beam", "greedy", "sample"},
                "beam_size": _is_whole(self.beam_size) and self.beam_size >= 1,
                "max_tokens": _is_whole(self.max_tokens) and self.max_tokens >= 1,
                "temperature": self.temperature > 0,
                "top_k": _is_whole(self.top_k) and self.top_k >= 0,
                "top_p": 0 < self.top_p <= 1,
                "seed": _is_whole(self.seed) and self.seed >= 0,
            }.items()
            if not holds
        ]
        if wrong:
            raise InvalidInputError(
                "decoding-settings",
                f"Decoding cannot run with this {', '.join(wrong)}.",
                hint="Use integers for beam_size and max_tokens (≥ 1), top_k and seed (≥ 0); "
                "temperature > 0; 0 < top_p ≤ 1.",
            )

    def replace(self, **changes: Unpack[DecodingChanges]) -> DecodingSettings:
        """Return a copy with changes; None means no change."""
        return DecodingSettings(**asdict(self) | {k: v for k, v in changes.items() if v is not None})


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False)
class Decoded:
    """One slide's text as tokens.

    `tokens` int64[T] without the end token; `log_probs` float32[T], the model's log-probability of each;
    `attention` float32[T, R], the last layer's attention to the regions when it chose each; `score`, the
    summed log-probability, including the end token's if `ended`.
    """

    tokens: Ints
    log_probs: Floats
    attention: Floats
    score: float
    ended: bool


def decode(stepper: Stepper[Cache], settings: DecodingSettings) -> list[Decoded]:
    """Generate the text of every slide in the batch. Raises FatalError("model-not-finite")."""
    if settings.method == "beam":
        return _search(_Stepping(stepper, settings.beam_size), settings.max_tokens)
    return _walk(stepper, settings)


def follow(engine: BeamEngine, settings: DecodingSettings) -> list[Decoded]:
    """Generate the same texts as `decode` by an engine's beam search; raises the same."""
    texts = _search(_Following(engine, settings), settings.max_tokens)
    looked = engine.looked([text.attention[:, 0].astype(np.int64) for text in texts])
    return [replace(text, attention=rows) for text, rows in zip(texts, looked, strict=True)]


def _step(stepper: Stepper[Cache], tokens: Ints, cache: Cache) -> Step[Cache]:
    step = stepper.step(tokens, cache)
    _check_numbers(step.log_probs)
    return step


def _check_numbers(log_probs: Floats) -> None:
    if np.isnan(log_probs).any():
        raise FatalError(
            "model-not-finite",
            "The model computes probabilities that are not numbers.",
            hint="Its weights are damaged, or its training diverged: fetch it again, or retrain it.",
        )


class _Trace:
    """The words chosen so far by B beams of S slides, and what belongs to them: [S, B, T, …]."""

    def __init__(self, slides: int) -> None:
        self.tokens: Ints = np.zeros((slides, 1, 0), dtype=np.int64)
        self.log_probs: Floats = np.zeros((slides, 1, 0), dtype=np.float32)
        self.attention: npt.NDArray[Any] = np.zeros((slides, 1, 0, 0), dtype=np.float32)

    def extend(self, parents: Ints, tokens: Ints, log_probs: Floats, attention: npt.NDArray[Any]) -> None:
        """Continue beam `parents[s, b]` with a word; the attention is that of the parent's step."""
        rows = np.arange(len(parents))[:, None]
        looked = attention[rows, parents][:, :, None]
        before = self.attention[rows, parents] if self.tokens.size else looked[:, :, :0]
        self.tokens = np.concatenate([self.tokens[rows, parents], tokens[:, :, None]], axis=2)
        self.log_probs = np.concatenate([self.log_probs[rows, parents], log_probs[:, :, None]], axis=2)
        self.attention = np.concatenate([before, looked], axis=2)

    def keep(self, slides: Ints) -> None:
        """Keep these slides only."""
        self.tokens, self.log_probs = self.tokens[slides], self.log_probs[slides]
        self.attention = self.attention[slides]

    def take(self, slide: int, beam: int) -> Decoded:
        """Return the text of one beam."""
        tokens, log_probs = self.tokens[slide, beam], self.log_probs[slide, beam]
        ended = bool(tokens[-1] == END)
        words = len(tokens) - ended
        return Decoded(
            tokens=tokens[:words],
            log_probs=log_probs[:words],
            attention=self.attention[slide, beam, :words],
            score=float(np.cumsum(log_probs, dtype=np.float32)[-1]),
            ended=ended,
        )


class _Round(NamedTuple):
    """Continuations [S, B] of live slides with their summed scores, and what the beams before looked at."""

    scores: Floats
    parents: Ints
    tokens: Ints
    chosen: Floats
    attention: npt.NDArray[Any]


class _Rounds(Protocol):
    """Beams of a batch of slides, continued word by word."""

    slides: int

    def next(self) -> _Round:
        """Find the best continuations of the live slides' beams."""
        ...

    def keep(self, going: Ints, found: _Round, scores: Floats) -> None:
        """Go on with some of the live slides, whose beams have these scores from here on."""
        ...


class _Stepping:
    """Rounds of a stepper: the host chooses."""

    def __init__(self, stepper: Stepper[Cache], beams: int) -> None:
        self.slides = stepper.slides
        self._stepper: Stepper[Any] = stepper
        self._beams, self._cache = beams, stepper.start()
        self._tokens: Ints = np.zeros((self.slides, 1), dtype=np.int64)
        self._scores: Floats = np.zeros((self.slides, 1), dtype=np.float32)

    def next(self) -> _Round:
        step = _step(self._stepper, self._tokens, self._cache)
        self._cache = step.cache
        return _Round(*_best_continuations(self._scores, step.log_probs, self._beams), step.attention)

    def keep(self, going: Ints, found: _Round, scores: Floats) -> None:
        self._cache = self._stepper.select(self._cache, going, found.parents[going])
        self._tokens, self._scores = found.tokens[going], scores[going]


class _Following:
    """Rounds of an engine: it goes on with all slides and what they looked at stays there.

    In place of their attention come the beams' own numbers, by which the engine finds it later.
    """

    def __init__(self, engine: BeamEngine, settings: DecodingSettings) -> None:
        self.slides = engine.slides
        self._rounds = engine.search(settings.beam_size, settings.max_tokens)
        self._live = np.arange(self.slides)
        self._scores: Floats = np.full((self.slides, settings.beam_size), -np.inf, dtype=np.float32)
        self._scores[:, 0] = 0.0

    def next(self) -> _Round:
        found = next(self._rounds)
        tokens, parents = found.tokens[self._live], found.parents[self._live]
        chosen = found.chosen[self._live]
        _check_numbers(chosen)
        scores = np.take_along_axis(self._scores, parents, axis=1) + chosen
        numbers = np.broadcast_to(np.arange(self._scores.shape[1])[:, None], (*parents.shape, 1))
        return _Round(scores, parents, tokens, chosen, numbers)

    def keep(self, going: Ints, found: _Round, scores: Floats) -> None:
        self._live, self._scores = self._live[going], scores[going]


def _search(rounds: _Rounds, max_tokens: int) -> list[Decoded]:
    """Search as published: summed log-probability, no length normalisation.

    The published code always runs to the limit. Here a slide stops as soon as its best finished text is at
    least as good as its best live beam: log-probabilities only lower a score, so the answer is final.
    """
    best: list[Decoded | None] = [None] * rounds.slides
    live = np.arange(rounds.slides)
    trace = _Trace(len(live))
    for place in range(max_tokens):
        found = rounds.next()
        trace.extend(found.parents, found.tokens, found.chosen, found.attention)
        ended = (found.tokens == END) | (place == max_tokens - 1)
        _keep_best(best, live, trace, found.scores, ended)
        scores = np.where(ended, found.scores - FINISHED_PENALTY, found.scores)
        going = np.flatnonzero([_may_improve(best[s], row) for s, row in zip(live, scores, strict=True)])
        if len(going) == 0:
            break
        rounds.keep(going, found, scores)
        trace.keep(going)
        live = live[going]
    return [text for text in best if text is not None]


def _best_continuations(scores: Floats, log_probs: Floats, beams: int) -> tuple[Floats, Ints, Ints, Floats]:
    """Find the best `beams` one-word continuations of each slide's beams.

    Returns their summed scores, parent beams, words and the words' log-probabilities, each [S, beams]. Ties
    are broken by beam, then word.
    """
    slides, _, words = log_probs.shape
    summed = (scores[:, :, None] + log_probs).reshape(slides, -1)
    width = min(beams, summed.shape[1])
    least = np.partition(summed, summed.shape[1] - width, axis=1)[:, -width, None]
    order = np.empty((slides, width), dtype=np.int64)
    for slide in range(slides):
        among = np.flatnonzero(summed[slide] >= least[slide])
        order[slide] = among[np.argsort(-summed[slide, among], kind="stable")[:width]]
    picked = np.take_along_axis(summed, order, axis=1)
    chosen = np.take_along_axis(log_probs.reshape(slides, -1), order, axis=1)
    return picked, order // words, order % words, chosen


def _keep_best(
    best: list[Decoded | None], live: Ints, trace: _Trace, scores: Floats, ended: npt.NDArray[np.bool_]
) -> None:
    """Remember each slide's best finished text; of equals, the first to finish."""
    for row, beam in zip(*np.nonzero(ended), strict=True):
        known = best[live[row]]
        if known is None or scores[row, beam] > known.score:
            best[live[row]] = trace.take(int(row), int(beam))


def _may_improve(finished: Decoded | None, scores: Floats) -> bool:
    return finished is None or bool(scores.max() > finished.score)


def _walk(stepper: Stepper[Cache], settings: DecodingSettings) -> list[Decoded]:
    """Follow one beam a slide: the likeliest word each time, or a drawn one."""
    texts: list[Decoded | None] = [None] * stepper.slides
    live = np.arange(stepper.slides)
    choosers = [Chooser(settings) for _ in live]
    trace, cache = _Trace(len(live)), stepper.start()
    tokens = np.zeros((len(live), 1), dtype=np.int64)
    for place in range(settings.max_tokens):
        step = _step(stepper, tokens, cache)
        words = [choosers[slide](row[0]) for slide, row in zip(live, step.log_probs, strict=True)]
        tokens = np.array(words, dtype=np.int64)[:, None]
        only = np.zeros_like(tokens)
        trace.extend(only, tokens, np.take_along_axis(step.log_probs[:, 0], tokens, axis=1), step.attention)
        ended = (tokens[:, 0] == END) | (place == settings.max_tokens - 1)
        for row in np.flatnonzero(ended):
            texts[live[row]] = trace.take(int(row), 0)
        going = np.flatnonzero(~ended)
        if len(going) == 0:
            break
        cache = stepper.select(step.cache, going, only[going])
        trace.keep(going)
        live, tokens = live[going], tokens[going]
    return [text for text in texts if text is not None]
