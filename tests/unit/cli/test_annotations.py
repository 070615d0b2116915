"""`train` and `evaluate` with an annotation: used cases are counted, invalid ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

REPORT = "Breast, biopsy:\n  Carcinoma\n  - Grade: {}"
COORDS = np.array([(x * 512, y * 512) for y in range(5) for x in range(8)], np.int64)


def write_bags(folder: Path, *names: str) -> Path:
    """Write bags as CLAM does: features and places, and nothing about their origin."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["features"] = np.random.default_rng(seed).normal(size=(40, 16)).astype(np.float32)
            file["coords"] = COORDS
    return folder


def write_annotation(path: Path, encoding: str = "utf-8", **splits: dict[str, list[str]]) -> Path:
    content = {
        split: [
            {"id": i, "report": REPORT.format(n % 3 + 1), "image_path": p}
            for n, (i, p) in enumerate(e.items())
        ]
        for split, e in splits.items()
    }
    path.write_text(json.dumps(content), encoding=encoding)
    return path


@pytest.fixture
def train(histgen, tmp_path):
    def call(annotation, bags, *options):
        arguments = ("--annotation", annotation, "--bags", bags, "--out", tmp_path / "model")
        return histgen(
            "train", *arguments, "--preset", "small", "--epochs", "1", "--threads", "1", "--json", *options
        )

    return call


def test_clam_bags_and_cases_of_several_slides_are_used_scored_and_counted(train, histgen, tmp_path):
    bags = write_bags(tmp_path / "bags", "S0", "S1", "S2", "S3", "V0", "T0", "T1", "T2", "other_encoder/S0")
    annotation = write_annotation(
        tmp_path / "a.json",
        "utf-8-sig",
        train={"S0": [r"C:\data\S0.svs"], "CASE": ["S1.svs", "S2.svs", "S3.svs"], "gone": ["gone.svs"]},
        val={"V0": [r"slides\V0.h5"]},
        test={"T0": [], "PAIR": ["T1.svs", "T2.svs"]},
    )
    code, out, err = train(annotation, bags)
    assert code == 0
    cases = json.loads(out)["cases"]
    assert {name: cases["train"][name] for name in ("listed", "used", "slides", "no_bag")} == {
        "listed": 3,
        "used": 2,
        "slides": 4,
        "no_bag": ["gone"],
    }
    assert "train: 2 of 3 cases used (4 slides)" in err
    assert "1 with no bag, left out: gone" in err
    assert "other_encoder" in err
    arguments = ("--model", tmp_path / "model", "--annotation", annotation, "--bags", bags, "--no-meteor")
    code, out, err = histgen("evaluate", *arguments, "--out", tmp_path / "scores", "--threads", "1", "--json")
    assert code == 0
    scored = json.loads(out)
    assert scored["cases"]["test"]["slides"] == 3
    assert "test: 2 of 2 cases used (3 slides)" in err
    written = tmp_path / "scores" / "predictions.csv"
    code, out, _ = histgen("evaluate", "--csv", written, "--id-column", "id", "--no-meteor", "--json")
    assert json.loads(out)["pairs"] == 2
    assert json.loads(out)["metrics"] == scored["metrics"]
    arguments = ("--model", tmp_path / "model", "--out", tmp_path / "drafts", "--threads", "1", "--json")
    code, out, _ = histgen("report", bags / "T0.h5", *arguments)
    assert (code, json.loads(out)["errors"]) == (0, [])


@pytest.mark.parametrize(
    ("splits", "code", "message"),
    [
        (
            {"train": {"S0": [], **{f"Z{i}": [] for i in range(9)}}},
            "training-bags-missing",
            "Only 1 of the 10",
        ),
        ({"train": {"P1.1": [], "P1.2": []}, "test": {"P1.3": []}}, "training-bags-missing", "None of the 2"),
        ({"train": {"S0": []}, "test": {"X": ["S0.svs"]}}, "training-slide-in-two-splits", "S0"),
        ({"train": {"S0": []}, "test": {"S0": []}}, "training-annotation-twice", "S0"),
        ({"train": {"S0": [], "D": []}}, "training-bags-ambiguous", "D.h5"),
    ],
    ids=["nine of ten missing", "dots", "one slide in two splits", "one id in two splits", "two sets"],
)
def test_invalid_annotations_are_refused_before_training(train, tmp_path, splits, code, message):
    bags = write_bags(tmp_path / "bags", "S0", "V0", "P1", "uni/D", "conch/D")
    status, _, err = train(write_annotation(tmp_path / "a.json", **splits, val={"V0": []}), bags)
    assert (status, code in err, message in err) == (65, True, True), err
    assert not (tmp_path / "model").exists()


def test_too_few_reports_for_the_published_vocabulary_are_refused_with_a_hint(histgen, tmp_path):
    bags = write_bags(tmp_path / "bags", "S0", "V0")
    annotation = write_annotation(tmp_path / "a.json", train={"S0": []}, val={"V0": []})
    arguments = ("--annotation", annotation, "--bags", bags, "--out", tmp_path / "model")
    code, _, err = histgen("train", *arguments)
    assert (code, "training-vocabulary-poor" in err, "--min-count" in err) == (65, True, True)


def test_an_evaluation_of_a_tenth_of_a_split_is_refused(histgen, model_dir, tmp_path):
    bags = write_bags(tmp_path / "bags", "T0")
    annotation = write_annotation(tmp_path / "a.json", test={f"T{i}": [] for i in range(10)})
    arguments = ("evaluate", "--model", model_dir, "--annotation", annotation, "--bags", bags, "--no-meteor")
    code, _, err = histgen(*arguments)
    assert (code, "Only 1 of the 10 cases of the test split" in err) == (65, True)
    assert histgen(*arguments, "--allow-missing")[0] == 0


@pytest.mark.parametrize("case_id", ["../secret", "/etc/secret"])
def test_an_id_cannot_reach_truth_files_outside_the_folder(histgen, model_dir, tmp_path, case_id):
    bags = write_bags(tmp_path / "bags", "T0")
    (tmp_path / "truth").mkdir()
    (tmp_path / "secret.json").write_text("no JSON: reading it would be an error")
    case_id = case_id if case_id.startswith("..") else str(tmp_path / "secret")
    annotation = write_annotation(tmp_path / "a.json", test={case_id: ["T0.svs"]})
    arguments = (
        "--model",
        model_dir,
        "--annotation",
        annotation,
        "--bags",
        bags,
        "--truth",
        tmp_path / "truth",
    )
    assert histgen("evaluate", *arguments, "--no-meteor")[0] == 0


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("missing", "Only 1 of the 10"),
        ("twice", "two entries for S0"),
        ("dots", "None of the 2"),
        ("multi", ""),
        ("bom", ""),
    ],
)
def test_the_shared_annotations_give_the_expected_results(train, shared_dir, name, answer):
    folder = shared_dir / "cases" / "annotation"
    code, out, err = train(folder / f"{name}.json", folder / "bags")
    assert code == (65 if answer else 0)
    assert answer in err
    if name == "multi":
        assert json.loads(out)["cases"]["train"]["slides"] == 3
