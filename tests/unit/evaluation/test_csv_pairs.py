"""A predictions file is read verbatim, or refused with a message that says what to fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation import Pair, read_pairs_csv, write_pairs_csv

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _read(path: Path, content: bytes, **options: str) -> list[Pair]:
    path.write_bytes(content)
    return read_pairs_csv(path, prediction_column="made", reference_column="true", **options)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.csv"


def test_cells_keep_spaces_quotes_commas_line_breaks_and_signs(file: Path) -> None:
    content = '\ufefftrue,x,made\n"Breast;\r\n  ""A"", 2 µm ",0, b  c \n'.encode()
    assert _read(file, content) == [Pair("1", 'Breast;\r\n  "A", 2 µm ', " b  c ")]


def test_ids_come_from_their_column_or_count_rows(file: Path) -> None:
    content = b"id,true,made\ns1,a,b\n\ns2,c,\n"
    assert [pair.id for pair in _read(file, content, id_column="id")] == ["s1", "s2"]
    assert _read(file, content) == [Pair("1", "a", "b"), Pair("2", "c", "")]


def test_a_tsv_file_is_separated_by_tabs(tmp_path: Path) -> None:
    assert _read(tmp_path / "p.tsv", b"true\tmade\na, b\tc\n") == [Pair("1", "a, b", "c")]


@pytest.mark.parametrize(
    "content",
    [
        b'true;made\r\n"a, b";c\r\n',
        b'sep=;\r\ntrue;made\r\n"a, b";c\r\n',
        b'"sep=;"\ntrue;made\n"a, b";c\n',
        b"sep=|\ntrue|made\na, b|c\n",
        "true\tmade\na, b\tc\n".encode("utf-16"),
        "\ufefftrue;made\na, b;c\n".encode(),
        b'true,made,,\r\n"a, b",c,,\r\n,,,\r\n',
        b' true , made\n"a, b",c\n',
    ],
    ids=[
        "semicolons",
        "sep",
        "sep quoted",
        "sep of any kind",
        "Unicode text",
        "mark",
        "empty ends",
        "blanks",
    ],
)
def test_files_saved_by_spreadsheets_are_read(file: Path, content: bytes) -> None:
    assert _read(file, content) == [Pair("1", "a, b", "c")]


def test_a_quoted_line_break_does_not_end_a_row_of_semicolons(file: Path) -> None:
    assert _read(file, b'true;made\n"one\r\ntwo; three";"x,\ny"\n') == [
        Pair("1", "one\r\ntwo; three", "x,\ny")
    ]


def test_commas_in_other_columns_of_the_header_do_not_mislead(file: Path) -> None:
    """What counts is the separator of the named columns, not the most frequent one."""
    assert _read(file, b'"a,b,c,d";true;made\nx;r;p\n') == [Pair("1", "r", "p")]


@given(texts=st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=5))
def test_written_pairs_are_read_back_verbatim(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "predictions.csv"
    pairs = [Pair(f"slide {row}", *pair) for row, pair in enumerate(texts)]
    write_pairs_csv(path, pairs)
    found = read_pairs_csv(
        path,
        prediction_column="prediction",
        reference_column="reference",
        id_column="id",
        blank_references="keep",
    )
    assert found == pairs


def test_a_very_long_cell_is_read(file: Path) -> None:
    word = "cell " * 100_000
    assert _read(file, f"true,made\n{word},x\n".encode())[0].reference == word


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", "evaluation-csv-empty", "predictions.csv is empty"),
        (b"\xef\xbb\xbf\n\n", "evaluation-csv-empty", "header line"),
        (b"true,made\n", "evaluation-csv-no-rows", "no rows"),
        (b"truth,made\na,b\n", "evaluation-csv-column-missing", "--reference-column"),
        (b"true,made,made\na,b,c\n", "evaluation-csv-column-missing", "more than one column 'made'"),
        (b"true,made\na,\xff\xfe\n", "evaluation-csv-undecodable", "UTF-8"),
        (b"true,made\na,b,c\n", "evaluation-csv-malformed", "row 1 has 3 cells"),
        (b"true,made\na\n", "evaluation-csv-malformed", "row 1 has 1 cells"),
        (b'true,made\n"a"b,c\n', "evaluation-csv-malformed", "quotes"),
        (b'true,made\n"a,b\n', "evaluation-csv-malformed", "line"),
        (b"true,made\na,b\n ,c\n", "evaluation-reference-blank", "1 rows with a blank reference: 2"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(file: Path, content: bytes, code: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _read(file, content)
    assert caught.value.code == code
    assert message in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, code in (
        (tmp_path / "no.csv", "evaluation-csv-missing"),
        (tmp_path, "evaluation-csv-unreadable"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            read_pairs_csv(path, prediction_column="made", reference_column="true")
        assert caught.value.code == code


def test_a_repeated_id_is_refused(file: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _read(file, b"id,true,made\ns1,a,b\ns1,c,d\n", id_column="id")
    assert caught.value.code == "evaluation-id-repeated"


def test_blank_references_can_be_kept_or_skipped_but_not_all_skipped(file: Path) -> None:
    content = b"true,made\na,b\n ,c\n"
    assert len(_read(file, content, blank_references="keep")) == 2
    assert _read(file, content, blank_references="skip") == [Pair("1", "a", "b")]
    with pytest.raises(InvalidInputError):
        _read(file, b"true,made\n ,c\n", blank_references="skip")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_is_an_encoding_error(file: Path, encoding: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _read(file, "true,made\na,b\n".encode(encoding))
    assert caught.value.code == "evaluation-csv-undecodable"


def test_the_error_for_a_file_without_a_header_quotes_no_report(file: Path) -> None:
    report = "Mrs Example, breast, core needle biopsy: invasive carcinoma of no special type, grade 2"
    with pytest.raises(InvalidInputError) as caught:
        _read(file, ",".join([f'"{report}"'] * 30).encode())
    assert caught.value.code == "evaluation-csv-column-missing"
    assert "grade 2" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_blank_rows_are_ignored_and_ids_compared_without_blanks(file: Path) -> None:
    assert len(_read(file, b"id,true,made\na,b,c\n , ,\t\n", id_column="id")) == 1
    with pytest.raises(InvalidInputError) as caught:
        _read(file, b"id,true,made\na,b,c\na ,d,e\n", id_column="id")
    assert caught.value.code == "evaluation-id-repeated"
