"""Matching each case with its bags by name: all of them, never another's, and a report of missing ones."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from histgen_lib.bags import BAG_SUFFIXES
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import safe_name
from histgen_lib.training.annotation import Annotation, Case
from histgen_lib.training.matching import Matching, index_files, match_cases, match_splits


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _match(folder: Path, *cases: Case) -> Matching:
    return match_cases("train", cases, index_files(folder, BAG_SUFFIXES))


def _found(folder: Path, *cases: Case) -> dict[str, list[str]]:
    matched = _match(folder, *cases).found
    return {one.case.id: [path.relative_to(folder).as_posix() for path in one.paths] for one in matched}


def _splits(folder: Path, *, allow_missing: bool = False, **splits: list[Case]) -> list[Matching]:
    annotation = Annotation(**{name: tuple(splits.get(name, ())) for name in ("train", "val", "test")})
    names = [name for name in ("train", "val") if name in splits]
    files = index_files(folder, BAG_SUFFIXES)
    return match_splits(annotation, names, files, allow_missing=allow_missing)


def _refused(folder: Path, **splits: list[Case]) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as raised:
        _splits(folder, **splits)
    return raised.value


def test_a_bag_is_found_by_id_or_else_by_image_path(tmp_path: Path) -> None:
    folder = _files(tmp_path, "one.parquet", "deep/scan-2.h5", "TCGA-3.a1b2.pt")
    cases = [
        Case("one", "r", ("elsewhere.svs",)),
        Case("case-2", "r", ("/lab/store/scan-2.svs",)),
        Case("TCGA-3.a1b2", "r"),
        Case("absent", "r", ("absent.svs",)),
    ]
    assert _found(folder, *cases) == {
        "one": ["one.parquet"],
        "case-2": ["deep/scan-2.h5"],
        "TCGA-3.a1b2": ["TCGA-3.a1b2.pt"],
    }
    assert _match(folder, *cases).missing == ("absent",)


def test_the_id_takes_precedence_over_the_image_path(tmp_path: Path) -> None:
    folder = _files(tmp_path, "a.parquet", "b.parquet")
    assert _found(folder, Case("a", "r", ("b.svs",))) == {"a": ["a.parquet"]}


@pytest.mark.parametrize("name", ["P1.1", "P1.2.svs", "P1.A", "P1.x.y", "P1.old"])
def test_no_name_is_shortened_to_that_of_another_slide(tmp_path: Path, name: str) -> None:
    folder = _files(tmp_path, "P1.h5")
    assert _found(folder, Case(name, "r"), Case("by path", "r", (name,))) == {}
    _files(tmp_path, f"{name.removesuffix('.svs')}.h5")
    assert _found(folder, Case(name, "r")) == {name: [f"{name.removesuffix('.svs')}.h5"]}


@pytest.mark.parametrize(
    "path",
    [
        r"C:\data\S0.svs",
        r"slides\S0.h5",
        r"\\server\share\S0.TIF",
        "/data/S0.ndpi",
        "S0",
        "./S0.pt",
        "S0.svs.h5",
    ],
)
def test_paths_of_any_system_are_understood(tmp_path: Path, path: str) -> None:
    folder = _files(tmp_path, "S0.h5")
    assert _found(folder, Case("case", "r", (path,))) == {"case": ["S0.h5"]}
    if "." in path.strip("./"):
        assert _found(folder, Case(path, "r")) == {path: ["S0.h5"]}


def test_names_match_whatever_their_unicode_form_and_as_encode_writes_them(tmp_path: Path) -> None:
    name = "Präparat 7"
    folder = _files(tmp_path, f"{safe_name(name)}.parquet", unicodedata.normalize("NFD", "Müller.h5"))
    assert _found(folder, Case(unicodedata.normalize("NFD", name), "r"), Case("Müller", "r")) == {
        unicodedata.normalize("NFD", name): [f"{safe_name(name)}.parquet"],
        "Müller": [unicodedata.normalize("NFD", "Müller.h5")],
    }


def test_hidden_and_partial_files_are_not_bags(tmp_path: Path) -> None:
    folder = _files(tmp_path, ".a.parquet.part", "._b.parquet", "c.txt")
    assert index_files(folder, (".parquet",)).by_name == {}


def test_all_slides_of_a_case_are_found_in_its_order(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S1.h5", "S2.h5", "S3.h5")
    case = Case("CASE", "r", ("S3.svs", "x/S1.svs", "S2.svs"))
    assert _found(folder, case) == {"CASE": ["S3.h5", "S1.h5", "S2.h5"]}
    assert _match(folder, case).warnings() == []


def test_a_case_with_missing_slides_is_used_and_reported(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S1.h5", "S3.h5")
    matching = _match(folder, Case("CASE", "r", ("S1.svs", "S2.svs", "S3.svs")))
    assert [path.name for path in matching.found[0].paths] == ["S1.h5", "S3.h5"]
    assert matching.incomplete == ("CASE",)
    assert "1 with only some of their slides' bags" in matching.warnings()[0]


def test_one_bag_can_hold_a_whole_case(tmp_path: Path) -> None:
    folder = _files(tmp_path, "CASE.h5")
    assert _found(folder, Case("CASE", "r", ("S1.svs", "S2.svs"))) == {"CASE": ["CASE.h5"]}


def test_slides_with_the_same_name_are_distinguished_by_folder(tmp_path: Path) -> None:
    folder = _files(tmp_path, "P1/1.h5", "P2/1.h5", "P2/2.h5")
    cases = [Case("p1", "r", ("P1/1.svs",)), Case("p2", "r", (r"D:\scans\P2\1.svs", r"D:\scans\P2\2.svs"))]
    [matching] = _splits(folder, train=cases)
    assert [[path.parent.name for path in one.paths] for one in matching.found] == [["P1"], ["P2", "P2"]]


@pytest.mark.parametrize("names", [("S0.h5", "S0.pt"), ("uni/S0.h5", "conch/S0.h5"), ("S0.h5", "S0.H5")])
def test_two_files_with_the_same_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    error = _refused(_files(tmp_path, *names), train=[Case("S0", "r")])
    assert error.code == "training-bags-ambiguous"
    assert all(Path(name).name in error.message for name in names)


def test_a_set_in_a_subfolder_is_left_aside_and_reported(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S0.h5", "S1.h5", "other_encoder/S0.h5")
    [matching] = _splits(folder, train=[Case("S0", "r"), Case("S1", "r")])
    assert [path.parent for one in matching.found for path in one.paths] == [folder, folder]
    assert "1 bags in subfolders left aside" in matching.warnings()[0]


def test_two_sets_of_bags_are_never_mixed(tmp_path: Path) -> None:
    """T0 is only in the subfolder, which is another set: the folder also has a bag with one of its names."""
    folder = _files(tmp_path, "S0.h5", "other_encoder/S0.h5", "other_encoder/T0.h5")
    error = _refused(folder, train=[Case("S0", "r")], val=[Case("T0", "r")])
    assert error.code == "training-bags-ambiguous"
    assert "two encoders" in error.hint


def test_folders_without_common_names_are_one_set(tmp_path: Path) -> None:
    folder = _files(tmp_path, "a/S0.h5", "b/S1.h5", "S2.h5")
    [matching] = _splits(folder, train=[Case(f"S{i}", "r") for i in range(3)])
    assert len(matching.found) == 3
    assert matching.warnings() == []


@pytest.mark.parametrize("other", ["val", "test"])
def test_one_bag_in_two_splits_is_refused(tmp_path: Path, other: str) -> None:
    folder = _files(tmp_path, "S0.h5", "V0.h5")
    splits = {"train": [Case("S0", "r")], "val": [Case("V0", "r")]}
    splits[other] = [*splits.get(other, []), Case("X", "r", ("slides/S0.svs",))]
    error = _refused(folder, **splits)
    assert error.code == "training-slide-in-two-splits"
    assert "S0" in error.message
    assert "X" in error.message


def test_one_bag_for_two_reports_of_a_split_is_reported(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S0.h5", "S1.h5")
    cases = [Case("one", "r", ("S0.svs",)), Case("two", "s", ("S0.svs",)), Case("S1", "r")]
    matching = _match(folder, *cases)
    assert matching.sharing == ("one", "two")
    assert "2 with a bag that another case" in matching.warnings()[0]


def test_empty_reports_are_left_out_and_reported(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S0.h5", "S1.h5")
    matching = _match(folder, Case("S0", " \n"), Case("S1", "r"))
    assert [one.case.id for one in matching.found] == ["S1"]
    assert matching.to_dict() == {
        "listed": 2, "used": 1, "slides": 1, "no_bag": [], "slides_missing": [], "empty_report": ["S0"],
        "one_bag_for_several": [],
    }  # fmt: skip
    assert "1 with an empty report" in matching.warnings()[0]


def test_a_few_missing_bags_are_counted_and_listed(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S0.h5", "S1.h5")
    [matching] = _splits(folder, train=[Case(f"S{i}", "r") for i in range(4)])
    assert matching.summary() == "train: 2 of 4 cases used (2 slides)"
    assert matching.warnings() == ["train: 2 with no bag, left out: S2, S3"]


def test_more_missing_than_found_is_an_error_unless_allowed(tmp_path: Path) -> None:
    folder = _files(tmp_path, "S0.h5", "S1.h5")
    cases = [Case(f"S{i}", "r") for i in range(5)]
    error = _refused(folder, train=cases)
    assert error.code == "training-bags-missing"
    assert "Only 2 of the 5 cases of the train split" in error.message
    assert "--allow-missing" in error.hint
    assert len(_splits(folder, train=cases, allow_missing=True)[0].found) == 2


@pytest.mark.parametrize(
    ("cases", "code"),
    [
        ([], "training-split-empty"),
        ([Case("S0", " ")], "training-split-empty"),
        ([Case("a", "r")], "training-bags-missing"),
    ],
)
def test_an_empty_split_is_refused_with_a_hint(tmp_path: Path, cases: list[Case], code: str) -> None:
    error = _refused(_files(tmp_path, "S0.h5"), train=cases)
    assert error.code == code
    assert error.hint
