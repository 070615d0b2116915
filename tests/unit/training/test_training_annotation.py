"""The annotation file, and finding each case's bag by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.training.annotation import Case, index_files, match_cases, read_annotation, require_matches


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_the_published_layout_is_read_with_keys_we_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "annotation.json"
    item = {"id": "TCGA-1", "report": "A report .", "image_path": ["TCGA-1.pt"], "split": "train"}
    path.write_text(json.dumps({"train": [item], "val": [], "test": [item | {"image_path": "b.svs"}]}))
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
def test_what_is_not_an_annotation_file_is_named_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annotation.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="annotation file") as raised:
        read_annotation(path)
    assert raised.value.code == "training-annotation-unreadable"
    assert '"image_path"' in raised.value.hint


def test_a_missing_annotation_file_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read_annotation(tmp_path / "none.json")
    assert raised.value.code == "training-annotation-unreadable"


def test_a_split_that_does_not_exist_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InvalidInputError) as raised:
        read_annotation(tmp_path / "a.json").split("dev")
    assert raised.value.code == "training-split-unknown"


def test_a_bag_is_found_by_id_and_else_by_image_path(tmp_path: Path) -> None:
    folder = _files(tmp_path, "one.parquet", "deep/scan-2.h5", "TCGA-3.a1b2.pt")
    cases = [
        Case("one", "", ("elsewhere.svs",)),
        Case("case-2", "", ("/lab/store/scan-2.svs",)),
        Case("TCGA-3.a1b2", ""),
        Case("absent", "", ("absent.svs",)),
    ]
    found = match_cases(cases, index_files(folder, (".parquet", ".h5", ".pt")))
    assert [(case.id, path.name) for case, path in found] == [
        ("one", "one.parquet"),
        ("case-2", "scan-2.h5"),
        ("TCGA-3.a1b2", "TCGA-3.a1b2.pt"),
    ]


def test_the_id_goes_before_the_image_path(tmp_path: Path) -> None:
    files = index_files(_files(tmp_path, "a.parquet", "b.parquet"), (".parquet",))
    assert match_cases([Case("a", "", ("b.svs",))], files)[0][1].name == "a.parquet"


def test_hidden_and_half_written_files_are_no_bags(tmp_path: Path) -> None:
    folder = _files(tmp_path, ".a.parquet.part", "._b.parquet", "c.txt")
    assert index_files(folder, (".parquet",)) == {}


def test_a_split_without_any_bag_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="None of the 1 cases of the val split") as raised:
        require_matches("val", [Case("a", "")], {}, tmp_path)
    assert raised.value.code == "training-bags-missing"
