"""Both tokenizers: ids as published, exact texts, files that survive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histgen_lib.errors import InvalidInputError
from histgen_lib.text.tokenizers import UNKNOWN, BpeTokenizer, WordTokenizer, clean_report, load_tokenizer

REPORTS = [
    "Breast, core needle biopsy:\n  Invasive carcinoma of no special type\n  - Grade: 2\n  - Necrosis: no",
    "Colon, endoscopic biopsy:\n  Tubular adenoma with low-grade dysplasia\n  - Inflammation: none",
] * 12
BPE = BpeTokenizer.train(REPORTS, vocab_size=400)


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("Breast, biopsy;\n  Low-grade DCIS", "breast biopsy low-grade dcis ."),
        ("1. Tumor.  2. Margin (free).", "tumor . margin free ."),
        ("Seen.. 3. ER/PR 90% <1 mm @ edge", "seen . erpr 90 1 mm  edge ."),
        ("A. B.", "a . b ."),
        ("", " ."),
        ('It\'s "so" \\ __x__', "its so  x ."),
    ],
)
def test_reports_are_cleaned_as_published(report: str, cleaned: str) -> None:
    assert clean_report(report).split() == cleaned.split()


def test_words_below_the_threshold_become_unknown_and_ids_start_at_one() -> None:
    tokenizer = WordTokenizer.train(["alpha beta"] * 10 + ["gamma"] * 9, threshold=10)
    assert tokenizer.words == [".", UNKNOWN, "alpha", "beta"]
    assert tokenizer.encode("Beta gamma") == [4, 2, 1]
    assert tokenizer.decode([4, 2, 1, 0, 3]) == "beta <unk> ."


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bpe_decodes_any_text_exactly(text: str) -> None:
    ids = BPE.encode(text)
    assert all(0 < number <= BPE.vocab_size for number in ids)
    assert BPE.decode(ids) == text


def test_bpe_keeps_line_breaks_indent_and_case() -> None:
    assert BPE.decode(BPE.encode(REPORTS[0])) == REPORTS[0]
    assert len(BPE.encode(REPORTS[0])) < len(REPORTS[0]) / 2


def test_bpe_training_gives_the_same_ids_every_time() -> None:
    again = BpeTokenizer.train(REPORTS, vocab_size=400)
    assert again.encode(REPORTS[1]) == BPE.encode(REPORTS[1])


def test_decoding_stops_at_the_end_token() -> None:
    ids = BPE.encode("Grade: 2")
    assert BPE.decode([*ids, 0, *ids]) == "Grade: 2"


@pytest.mark.parametrize("tokenizer", [BPE, WordTokenizer.train(REPORTS)], ids=["bpe", "word"])
def test_a_saved_tokenizer_loads_as_the_same(tokenizer: BpeTokenizer | WordTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.encode(REPORTS[1]) == tokenizer.encode(REPORTS[1])
    assert loaded.decode(loaded.encode(REPORTS[0])) == tokenizer.decode(tokenizer.encode(REPORTS[0]))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2, "kind": "word", "words": ["<unk>"]}',
        '{"schema": 1, "kind": "hieroglyphs"}',
        '{"schema": 1, "kind": "word", "words": ["a"]}',
        '{"schema": 1, "kind": "bpe", "tokenizer": {}}',
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_refused_with_a_code(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError) as caught:
        load_tokenizer(path)
    assert caught.value.code == "tokenizer-unreadable"


def test_a_missing_tokenizer_file_is_refused_with_a_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("ids", [[-1], [100000]])
def test_ids_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        BPE.decode(ids)
    assert caught.value.code == "tokens-unknown"


def test_tokenizers_do_not_need_torch() -> None:
    code = "import sys; import histgen_lib.text.tokenizers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_reports_survive_both_tokenizers(shared_dir: Path) -> None:
    splits = json.loads((shared_dir / "reports" / "reg2025_reports.json").read_text())
    train = [entry["report"] for entry in splits["train"]]
    held_out = sorted({entry["report"] for entry in splits["test"]})
    bpe, word = BpeTokenizer.train(train, vocab_size=800), WordTokenizer.train(train)
    assert all(bpe.decode(bpe.encode(report)) == report for report in held_out)
    unknown = word.words.index(UNKNOWN) + 1
    ids = [number for report in held_out for number in word.encode(report)]
    assert ids.count(unknown) / len(ids) < 0.02
