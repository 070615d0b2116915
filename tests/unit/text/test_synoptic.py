"""The synoptic grammar: writing, reading back, and reading what others wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.text.synoptic import field_key, field_name, format_report, parse_report, split_sentences

FIELDS = {
    "organ": "Breast",
    "procedure": "core needle biopsy",
    "diagnosis": "Invasive carcinoma of no special type",
    "grade": "2",
    "tumor_infiltrating_lymphocytes": "absent",
}
REPORT = (
    "Breast, core needle biopsy:\n  Invasive carcinoma of no special type\n"
    "  - Grade: 2\n  - Tumor-infiltrating lymphocytes: absent"
)


def test_a_report_is_written_in_the_cap_layout() -> None:
    assert format_report(FIELDS) == REPORT


def test_reading_a_report_returns_its_fields_in_order() -> None:
    assert list(parse_report(REPORT).items()) == list(FIELDS.items())


word = st.from_regex(r"[A-Z][a-z]{1,8}( [a-z]{1,8}){0,2}", fullmatch=True)


@given(word, word, word, st.dictionaries(word.map(field_key), word, max_size=5))
def test_reading_is_the_inverse_of_writing(
    organ: str, procedure: str, diagnosis: str, items: dict[str, str]
) -> None:
    items = {k: v for k, v in items.items() if k not in ("organ", "procedure", "diagnosis")}
    fields = {"organ": organ, "procedure": procedure, "diagnosis": diagnosis, **items}
    assert parse_report(format_report(fields)) == fields


@given(st.text(max_size=200))
def test_reading_and_splitting_never_fail(text: str) -> None:
    assert all(isinstance(value, str) for value in parse_report(text).values())
    assert all(0 <= start < end <= len(text) for start, end in split_sentences(text))


@pytest.mark.parametrize(
    "text",
    ["Breast, biopsy;\n  Fibroadenoma", "Breast, biopsy; Fibroadenoma", "Breast, biopsy;\n 1. Fibroadenoma"],
)
def test_semicolon_heads_as_in_reg2025_are_read(text: str) -> None:
    assert parse_report(text) == {"organ": "Breast", "procedure": "biopsy", "diagnosis": "Fibroadenoma"}


def test_free_prose_yields_no_organ() -> None:
    assert "organ" not in parse_report("The sections show a tumour.\nIt is large.")


def test_every_line_of_a_report_is_one_sentence() -> None:
    pieces = [REPORT[start:end] for start, end in split_sentences(REPORT)]
    assert pieces == [line.strip() for line in REPORT.splitlines()]


def test_running_prose_is_split_at_full_stops() -> None:
    text = "The tumour is large. It reaches the margin.  No necrosis."
    assert [text[a:b] for a, b in split_sentences(text)] == [
        "The tumour is large.",
        "It reaches the margin.",
        "No necrosis.",
    ]


def test_a_numbered_line_is_not_split_after_its_number() -> None:
    assert split_sentences("1. Fibroadenoma") == [(0, 15)]


@pytest.mark.parametrize("key", ["mitotic_score", "tumor_infiltrating_lymphocytes", "margins"])
def test_names_and_keys_are_each_others_inverse(key: str) -> None:
    assert field_key(field_name(key)) == key
