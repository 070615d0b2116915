"""The annotation file: its layout, its encodings, and ids that must be unique."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.training.annotation import Case, read_annotation


def test_the_published_layout_is_read_with_keys_we_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "annotation.json"
    item = {"id": "TCGA-1", "report": "A report .", "image_path": ["TCGA-1.pt"], "split": "train"}
    path.write_text(
        json.dumps({"train": [item], "val": [], "test": [item | {"id": "TCGA-2", "image_path": "b.svs"}]})
    )
    annotation = read_annotation(path)
    assert annotation.train == (Case("TCGA-1", "A report .", ("TCGA-1.pt",)),)
    assert annotation.val == ()
    assert annotation.test[0].image_path == ("b.svs",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '{"train": 3}',
        '{"train": [{"id": "a"}]}',
        '{"train": ["a"]}',
        '{"train": [{"id": "a", "report": null}]}',
    ],
)
def test_a_file_that_is_not_an_annotation_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annotation.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="annotation file") as raised:
        read_annotation(path)
    assert raised.value.code == "training-annotation-unreadable"
    assert '"image_path"' in raised.value.hint


def test_a_missing_annotation_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read_annotation(tmp_path / "none.json")
    assert raised.value.code == "training-annotation-unreadable"


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InvalidInputError) as raised:
        read_annotation(tmp_path / "a.json").split("dev")
    assert raised.value.code == "training-split-unknown"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_determines_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "annotation.json"
    text = json.dumps({"train": [{"id": "Präparat", "report": "µ"}]}, ensure_ascii=False)
    path.write_bytes(codecs.BOM_UTF16_LE * (encoding == "utf-16-le") + text.encode(encoding))
    assert read_annotation(path).train == (Case("Präparat", "µ"),)


def test_an_annotation_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"train": [{"id": "a", "report": "Präparat"}]}'.encode("latin-1"))
    with pytest.raises(InvalidInputError) as raised:
        read_annotation(tmp_path / "a.json")
    assert raised.value.code == "training-annotation-unreadable"


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["S0", "S0"], [], "two entries for S0 in its train split"),
        (["S0"], ["S0"], "in its train split and in its test split"),
        (["7", 7], [], "two entries for 7"),
    ],
)
def test_an_id_may_occur_once_across_all_splits(
    tmp_path: Path, train: list[object], test: list[object], message: str
) -> None:
    splits = {"train": train, "test": test}
    entries = {name: [{"id": i, "report": "the same"} for i in ids] for name, ids in splits.items()}
    (tmp_path / "a.json").write_text(json.dumps(entries))
    with pytest.raises(InvalidInputError, match=message) as raised:
        read_annotation(tmp_path / "a.json")
    assert raised.value.code == "training-annotation-twice"
    assert "image_path" in raised.value.hint


@pytest.mark.parametrize(
    "text",
    [
        '{"train": [{"id": "a", "report": "one", "report": "two"}]}',
        '{"train": [], "train": [{"id": "a", "report": "r"}]}',
        '{"train": [{"id": "", "report": "r"}]}',
        '{"train": [{"id": null, "report": "r"}]}',
        '{"train": [{"id": "a", "report": "r", "image_path": [null]}]}',
        '{"train": [{"id": "a", "report": "\\ud800"}]}',
        "[" * 100_000,
    ],
    ids=["two reports", "two lists", "no name", "null", "no path", "half a character", "deep"],
)
def test_invalid_entries_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidInputError) as raised:
        read_annotation(tmp_path / "a.json")
    assert raised.value.code == "training-annotation-unreadable"


def test_a_null_image_path_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"train": [{"id": "a", "report": "r", "image_path": null}]}')
    assert read_annotation(tmp_path / "a.json").train == (Case("a", "r"),)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Train", "train"), ("validation", "val"), ("VAL", "val"), ("dev", "val"), ("Test ", "test")],
)
def test_a_split_under_another_name_is_not_silently_ignored(tmp_path, name, meant):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [], name: [{"id": "a", "report": "r"}]}))
    with pytest.raises(InvalidInputError) as caught:
        read_annotation(path)
    assert caught.value.code == "training-annotation-unreadable"
    assert f"{name!r} must be named {meant!r}" in caught.value.message


def test_other_keys_in_the_file_are_not_splits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"train": [{"id": "a", "report": "r"}], "dev": {"by": "x"}, "validation": [], "made": 1})
    )
    assert len(read_annotation(path).train) == 1
