"""The decoding loop on a toy language, and the torch stepper against uncached log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_histgen import SIZES, small_model

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.histgen.decoding import (
    END,
    FINISHED_PENALTY,
    Continuations,
    Decoded,
    DecodingSettings,
    Step,
    decode,
    follow,
)
from histgen_lib.models.histgen.network import TorchStepper

WORDS = 5


class ToyCache(NamedTuple):
    slide: np.ndarray  # [S], which slide each row is
    history: np.ndarray  # [S, B, T]


class ToyStepper:
    """A language whose next word depends on the slide and on the whole history, by a seeded table."""

    def __init__(self, seeds: list[int], end_bias: float = 0.0) -> None:
        self.seeds, self.end_bias, self.steps = seeds, end_bias, 0
        self.slides = len(seeds)

    def start(self) -> ToyCache:
        return ToyCache(np.arange(self.slides), np.zeros((self.slides, 1, 0), dtype=np.int64))

    def step(self, tokens: np.ndarray, cache: ToyCache) -> Step:
        self.steps += 1
        history = np.concatenate([cache.history, tokens[:, :, None]], axis=2)
        rows = [
            [self.log_probs(int(slide), beam[1:]) for beam in beams]
            for slide, beams in zip(cache.slide, history, strict=True)
        ]
        log_probs = np.array(rows, dtype=np.float32)
        return Step(log_probs, np.exp(log_probs[:, :, :2]), cache._replace(history=history))

    def select(self, cache: ToyCache, slides: np.ndarray, beams: np.ndarray) -> ToyCache:
        return ToyCache(cache.slide[slides], cache.history[slides[:, None], beams])

    def log_probs(self, slide: int, words: np.ndarray) -> np.ndarray:
        logits = np.random.default_rng([self.seeds[slide], *words.tolist()]).normal(size=WORDS) * 1.5
        logits[END] += self.end_bias
        return logits - np.log(np.exp(logits).sum())


class ToyEngine:
    """Searches the toy languages by itself, all slides to the limit, as a device does."""

    def __init__(self, stepper: ToyStepper) -> None:
        self.stepper, self.slides, self.seen = stepper, stepper.slides, []

    def search(self, beams: int, max_tokens: int) -> Iterator[Continuations]:
        every, cache = np.arange(self.slides), self.stepper.start()
        scores = np.full((self.slides, beams), -np.inf, dtype=np.float32)
        scores[:, 0] = 0.0
        parents = np.zeros((self.slides, beams), dtype=np.int64)
        tokens = np.zeros_like(parents)
        for _ in range(max_tokens):
            step = self.stepper.step(tokens, self.stepper.select(cache, every, parents))
            self.seen.append(step.attention)
            summed = (scores[:, :, None] + step.log_probs).reshape(self.slides, -1)
            order = np.argsort(-summed, axis=1, kind="stable")[:, :beams]
            scores = np.take_along_axis(summed, order, axis=1)
            chosen = np.take_along_axis(step.log_probs.reshape(self.slides, -1), order, axis=1)
            parents, tokens, cache = order // WORDS, order % WORDS, step.cache
            scores = np.where(tokens == END, scores - FINISHED_PENALTY, scores)
            yield Continuations(tokens, parents, chosen)

    def looked(self, beams: list[np.ndarray]) -> list[np.ndarray]:
        return [
            np.array([self.seen[place][slide, beam] for place, beam in enumerate(fed)]).reshape(-1, 2)
            for slide, fed in enumerate(beams)
        ]


def all_texts(stepper: ToyStepper, length: int) -> dict[tuple[int, ...], float]:
    """Every text of the first slide that ends or reaches the limit, with its summed log-probability."""
    scored = {}
    for words in product(range(WORDS), repeat=length):
        cut = words[: words.index(END) + 1] if END in words else words
        if cut not in scored:
            places = range(len(cut))
            scored[cut] = sum(stepper.log_probs(0, np.array(cut[:place]))[cut[place]] for place in places)
    return scored


def run_to_the_limit(stepper: ToyStepper, beams: int, length: int) -> tuple[list[int], float]:
    """Search as the authors' code does: no early stop, ended beams carried on at −1000."""
    live, done = [((), 0.0)], []
    for place in range(length):
        longer = [
            ((*words, word), score + value)
            for words, score in live
            for word, value in enumerate(stepper.log_probs(0, np.array(words, dtype=np.int64)))
        ]
        longer.sort(key=lambda beam: -beam[1])
        ends = [words[-1] == END or place == length - 1 for words, _ in longer[:beams]]
        done += [beam for beam, end in zip(longer, ends, strict=False) if end]
        live = [(words, score - 1000 * end) for (words, score), end in zip(longer, ends, strict=False)]
    words, score = max(done, key=lambda beam: beam[1])
    return list(words[: words.index(END)] if END in words else words), score


def same(first: Decoded, second: Decoded) -> bool:
    return (
        np.array_equal(first.tokens, second.tokens)
        and np.allclose(first.log_probs, second.log_probs, atol=1e-5)
        and np.allclose(first.attention, second.attention, atol=1e-5)
        and abs(first.score - second.score) < 1e-4
        and first.ended == second.ended
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_as_wide_as_the_language_finds_the_best_text_of_all(seed: int) -> None:
    stepper = ToyStepper([seed])
    scored = all_texts(stepper, length=4)
    best = max(scored, key=lambda words: scored[words])
    found = decode(stepper, DecodingSettings(beam_size=WORDS**4, max_tokens=4))[0]
    assert [*found.tokens, *([END] if found.ended else [])] == list(best)
    assert found.score == pytest.approx(scored[best], abs=1e-5)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), bias=st.floats(-3, 4), beams=st.integers(1, 4), length=st.integers(1, 9))
def test_stopping_early_gives_the_same_answer_as_running_to_the_limit(
    seed: int, bias: float, beams: int, length: int
) -> None:
    stepper = ToyStepper([seed], bias)
    expected, score = run_to_the_limit(stepper, beams, length)
    found = decode(stepper, DecodingSettings(beam_size=beams, max_tokens=length))[0]
    assert found.tokens.tolist() == expected
    assert found.score == pytest.approx(score, abs=1e-4)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), bias=st.floats(-3, 4), beams=st.integers(1, 4), length=st.integers(1, 9))
def test_following_an_engine_gives_what_stepping_gives(
    seed: int, bias: float, beams: int, length: int
) -> None:
    how = DecodingSettings(beam_size=beams, max_tokens=length)
    seeds = [seed, seed + 1, seed + 2]
    followed = follow(ToyEngine(ToyStepper(seeds, bias)), how)
    for found, expected in zip(followed, decode(ToyStepper(seeds, bias), how), strict=True):
        assert found.attention.shape == expected.attention.shape
        assert same(found, expected)
        assert found.score == expected.score


def test_an_engine_is_not_asked_for_more_than_the_host_needs() -> None:
    engine = ToyEngine(ToyStepper([1], end_bias=6.0))
    follow(engine, DecodingSettings(beam_size=3, max_tokens=100))
    assert len(engine.seen) < 10


def test_search_stops_when_no_better_text_is_possible() -> None:
    stepper = ToyStepper([1], end_bias=6.0)
    decode(stepper, DecodingSettings(beam_size=3, max_tokens=100))
    assert stepper.steps < 10


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
def test_a_batch_gives_the_same_texts_as_its_slides_one_by_one(method: str) -> None:
    chosen = DecodingSettings.replace(DecodingSettings(max_tokens=12, seed=4), method=method)
    seeds = [3, 14, 15, 92, 65]
    together = decode(ToyStepper(seeds, 0.8), chosen)
    alone = [decode(ToyStepper([seed], 0.8), chosen)[0] for seed in seeds]
    assert len({len(text.tokens) for text in alone}) > 1  # slides that end at different times
    assert all(same(first, second) for first, second in zip(together, alone, strict=True))


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
def test_reported_probabilities_are_those_of_the_chosen_words(method: str) -> None:
    stepper = ToyStepper([8], 0.5)
    chosen = DecodingSettings(max_tokens=10, temperature=2.0).replace(method=method)
    text = decode(stepper, chosen)[0]
    words = [*text.tokens, *([END] if text.ended else [])]
    expected = [stepper.log_probs(0, np.array(words[:place]))[words[place]] for place in range(len(words))]
    assert np.allclose(text.log_probs, expected[: len(text.tokens)], atol=1e-5)
    assert text.score == pytest.approx(sum(expected), abs=1e-4)
    assert text.attention.shape == (len(text.tokens), 2)


def test_greedy_search_takes_the_likeliest_word_each_time() -> None:
    stepper = ToyStepper([5], -1.0)
    text = decode(stepper, DecodingSettings(method="greedy", max_tokens=8))[0]
    for place, word in enumerate(text.tokens):
        assert word == stepper.log_probs(0, text.tokens[:place]).argmax()


class Parrot(ToyStepper):
    """Would say 1 2 3 1 2 3 … forever; its second choice is always 4, a little less likely."""

    def log_probs(self, slide: int, words: np.ndarray) -> np.ndarray:
        logits = np.full(WORDS, -9.0)
        logits[[1, 2, 3][len(words) % 3]] = 0.0
        logits[4] = -2.0
        return logits


def test_blocking_trigrams_quarters_a_repeated_word_for_each_earlier_time() -> None:
    """One hit leaves 0.0 above −2.0, a second does not; then the other word has a hit of its own."""
    free = decode(Parrot([0]), DecodingSettings(method="greedy", max_tokens=12))[0]
    blocked = decode(Parrot([0]), DecodingSettings(method="greedy", max_tokens=12, block_trigrams=True))[0]
    assert free.tokens.tolist() == [1, 2, 3] * 4
    assert blocked.tokens.tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2, 3]


def test_sampling_repeats_with_its_seed_and_changes_with_another() -> None:
    def draw(seed: int) -> list[int]:
        chosen = DecodingSettings(method="sample", seed=seed, max_tokens=30)
        return decode(ToyStepper([2], -3.0), chosen)[0].tokens.tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("limits", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}])
def test_sampling_from_one_word_is_greedy(limits: dict[str, float]) -> None:
    greedy = decode(ToyStepper([2]), DecodingSettings(method="greedy", max_tokens=9))[0]
    drawn = decode(ToyStepper([2]), DecodingSettings(method="sample", max_tokens=9).replace(**limits))[0]
    assert drawn.tokens.tolist() == greedy.tokens.tolist()


def test_sampling_draws_words_as_often_as_they_are_likely() -> None:
    stepper = ToyStepper([6])
    drawn = [
        decode(stepper, DecodingSettings(method="sample", max_tokens=1, seed=seed))[0] for seed in range(3000)
    ]
    firsts = [int(text.tokens[0]) if len(text.tokens) else END for text in drawn]
    shares = np.bincount(firsts, minlength=WORDS) / len(firsts)
    assert np.abs(shares - np.exp(stepper.log_probs(0, np.array([], dtype=np.int64)))).max() < 0.03


def test_top_k_and_top_p_leave_out_unlikely_words() -> None:
    stepper = ToyStepper([6])
    order = np.argsort(-stepper.log_probs(0, np.array([], dtype=np.int64)))
    for limits in (
        {"top_k": 2},
        {"top_p": float(np.exp(stepper.log_probs(0, np.array([]))[order[0]])) + 0.01},
    ):
        chosen = DecodingSettings(method="sample", max_tokens=1).replace(**limits)
        drawn = [decode(stepper, chosen.replace(seed=seed))[0].tokens for seed in range(200)]
        assert {int(words[0]) if len(words) else END for words in drawn} == set(order[:2].tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "guess"},
        {"beam_size": 0},
        {"max_tokens": 0},
        {"temperature": 0.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"beam_size": 2.5},
        {"max_tokens": "5"},
        {"top_k": 1.0},
        {"seed": True},
    ],
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))) as caught:
        DecodingSettings().replace(**changes)
    assert caught.value.code == "decoding-settings"


def test_generating_no_tokens_is_refused_and_the_default_is_the_models_own_limit() -> None:
    network = small_model("published")
    features = np.zeros((3, SIZES["input_dim"]))
    for settings_ in ({"max_tokens": 0}, {"beam_size": 0}, {"max_tokens": -1}):
        with pytest.raises(InvalidInputError) as caught:
            network.generate(features, **settings_)
        assert caught.value.code == "decoding-settings"
    with torch.no_grad():
        network.logit.bias[END] = -1e4
    assert len(network.generate(features)[0]) == SIZES["max_tokens"]
    assert len(network.generate(features, max_tokens=2)[0]) == 2


def test_generated_ids_come_without_end_and_padding() -> None:
    network = small_model("published")
    with torch.no_grad():
        network.logit.bias[END] = 1e4
    tokens, score = network.generate(np.zeros((3, SIZES["input_dim"])))
    assert tokens.tolist() == []
    assert score == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
def test_a_model_that_computes_nan_is_refused(method: str) -> None:
    stepper = ToyStepper([0], end_bias=float("nan"))
    with pytest.raises(FatalError) as caught:
        decode(stepper, DecodingSettings().replace(method=method))
    assert caught.value.code == "model-not-finite"


@pytest.mark.parametrize("mode", ["published", "corrected"])
def test_cached_steps_give_the_uncached_log_probabilities(mode: str) -> None:
    """Two slides of different size, three beams each that are reordered, and one slide dropped on the way."""
    network = small_model(mode)
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(2, 11, SIZES["input_dim"], generator=generator)
    mask = torch.arange(11) < torch.tensor([[11], [6]])
    history = np.random.default_rng(0).integers(1, SIZES["vocab_size"], size=(2, 3, 6))
    history[:, :, 0] = 0
    with torch.inference_mode():
        memory = network.region_memory(features, mask)
        stepper = TorchStepper(network, memory)
        cache = stepper.select(stepper.start(), np.arange(2), np.zeros((2, 3), dtype=np.int64))
        slides = np.arange(2)
        for place in range(6):
            step = stepper.step(history[:, :, place], cache)
            cache = step.cache
            for row, slide in enumerate(slides):
                for beam in range(3):
                    fed = history[row, beam, : place + 1]
                    expected = network.log_probs(features[slide, : int(mask[slide].sum())], fed)[-1]
                    assert np.abs(step.log_probs[row, beam] - expected.numpy()).max() < 1e-4
            assert np.allclose(step.attention.sum(-1), 1.0, atol=1e-5)
            if place == 2:
                beams = np.array([[2, 0, 0], [1, 1, 2]])
                cache = stepper.select(cache, np.arange(2), beams)
                history = history[np.arange(2)[:, None], beams]
            if place == 3:
                cache = stepper.select(cache, np.array([1]), np.array([[0, 1, 2]]))
                history, slides = history[[1]], slides[[1]]


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
def test_the_network_writes_the_same_for_a_batch_as_for_its_slides_one_by_one(method: str) -> None:
    network = small_model("corrected")
    features = torch.randn(3, 17, SIZES["input_dim"], generator=torch.Generator().manual_seed(9))
    mask = torch.arange(17) < torch.tensor([[17], [3], [9]])
    chosen = DecodingSettings(max_tokens=12).replace(method=method)
    together = network.generate_batch(features, mask, chosen)
    for row, count in enumerate([17, 3, 9]):
        alone = network.generate_batch(features[row : row + 1, :count], mask[row : row + 1, :count], chosen)[
            0
        ]
        assert together[row].tokens.tolist() == alone.tokens.tolist()
        assert together[row].score == pytest.approx(alone.score, abs=1e-4)
