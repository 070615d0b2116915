"""The retrieval network's vocabulary: any language, any text, never nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.models.fgcr.words import Words

WORDS = Words.train(["Prostate: Gleason 3+4=7.\n- Ki-67: 20 %", "胃腺癌, prostate"], limit=9)


def test_words_are_what_people_call_words() -> None:
    assert WORDS.split("Prostate: Gleason 3+4=7.") == ["prostate", "gleason", "3", "+", "4", "7"]
    assert WORDS.split("胃腺癌 Übergang, naïve") == ["胃", "腺", "癌", "übergang", "naïve"]


def test_known_words_have_their_ids_and_others_one() -> None:
    known = WORDS.encode("gleason PROSTATE")
    assert known.dtype == np.int32
    assert (known >= 3).all()
    assert WORDS.encode("lymphoma gleason").tolist() == [1, known[0]]


def test_case_matters_where_it_was_to_matter() -> None:
    words = Words.train(["pT1a PT1A"], lower=False)
    assert words.words == ("PT1A", "pT1a")
    assert words.encode("pt1a").tolist() == [1]


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_at_least_one_token_and_at_most_the_limit(text: str) -> None:
    """Also halves of characters, which JSON can hold."""
    tokens = WORDS.encode(text)
    assert 1 <= len(tokens) <= 9
    assert ((tokens >= 1) & (tokens < WORDS.vocab_size)).all()


@given(st.text(st.sampled_from("胃癌 prostate.+\u0301\n7")), st.integers(1, 60))
def test_no_more_of_a_text_is_split_than_its_first_words_need(text: str, times: int) -> None:
    whole = [WORDS.encode(word)[0] for word in WORDS.split(text * times)[: WORDS.limit]]
    assert WORDS.encode(text * times).tolist() == (whole or [1])


def test_of_a_long_text_only_the_beginning_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million ideographs take a gigabyte and ten seconds to split, for nine words."""
    lengths: list[int] = []
    split = Words.split

    def counted(self: Words, text: str) -> list[str]:
        lengths.append(len(text))
        return split(self, text)

    monkeypatch.setattr(Words, "split", counted)
    assert len(WORDS.encode("胃腺癌" * 10_000)) == 9
    assert sum(lengths) < 1000


def test_rare_words_are_left_out_and_the_same_texts_give_the_same_ids() -> None:
    texts = ["b a a", "c b d"]
    assert Words.train(texts, least=2).words == ("a", "b")
    assert Words.train(texts, most=1).words == ("a",)
    assert Words.train(texts).words == Words.train(reversed(texts)).words
    assert Words.train(["a b"]).unknown_share(["a x y b"]) == 0.5


def test_the_file_says_whether_case_matters(tmp_path: Path) -> None:
    path = Words.train(["Grade 2"], lower=False).save(tmp_path / "words.json")
    assert json.loads(path.read_text()) == {"schema": 1, "lower": False, "words": ["2", "Grade"]}


def test_a_word_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Words(["a", "a"], lower=True, limit=5)
