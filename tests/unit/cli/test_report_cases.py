"""`histgen report --cases`: the nearest signed cases of an index, without a stack."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from case_entries import entry
from similar_lab import checking_model
from tiny_retrieval import tiny_retrieval_model

from histgen_lib.models.folder import open_model_folder
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.draft_json import from_json
from histgen_lib.retrieval import CaseIndexSettings, open_case_index
from histgen_lib.storage import StorageSettings

FILES = {"bag.parquet", "draft.html", "draft.json", "draft.txt", "similar.json"}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """Fill an index with signed cases, and with what no draft may cite."""
    folder = tmp_path_factory.mktemp("index")
    model = open_model_folder(tiny_retrieval_model()).retrieval_digest
    with closing(open_case_index(CaseIndexSettings(StorageSettings(f"file:{folder}")))) as opened:
        opened.put(
            [
                entry("a", 1, signed=True, model=model, diagnosis="Fibroadenoma"),
                entry("b", 2, signed=True, model=model),
                entry("sound", 3, signed=True, model=model),
                entry("drawn", 4, signed=True, synthetic=True, model=model),
                entry("unsigned", 5, model=model),
            ]
        )
    return folder


@pytest.fixture
def report(histgen, tmp_path, slide_path):
    """Report the slide; returns exit code, what was printed, and the draft."""

    def run(*options: object, slide: Path = slide_path) -> tuple[int, str, DraftReport | None]:
        code, printed, errors = histgen("report", slide, "--out", tmp_path, *options)
        stored = tmp_path / "sound" / "draft.json"
        return code, printed + errors, from_json(stored.read_bytes()) if stored.is_file() else None

    return run


def test_a_draft_shows_the_nearest_signed_cases_and_never_its_own(report, index, tmp_path):
    code, printed, draft = report("--model", tiny_retrieval_model(), "--cases", index)

    assert code == 0
    assert sorted(case.slide_id for case in draft.similar.cases) == ["a", "b"]
    assert "Fibroadenoma (slide a)" in printed
    assert {path.name for path in (tmp_path / "sound").iterdir()} == FILES
    assert "Report of a." in (tmp_path / "sound" / "draft.html").read_text(encoding="utf-8")


def test_a_draft_is_made_again_for_its_cases_and_then_left_alone(report, index, tmp_path):
    model = tiny_retrieval_model()
    _, _, plain = report("--model", model)
    _, first, draft = report("--model", model, "--cases", index)
    _, second, again = report("--model", model, "--cases", index)
    (tmp_path / "sound" / "similar.json").unlink()
    _, third, _ = report("--model", model)

    assert plain.similar.answer == "off"
    assert draft.similar.answer == "answered"
    assert draft.provenance == plain.provenance
    assert again == draft
    assert ["unchanged" in printed for printed in (first, second, third)] == [False, True, False]


def test_a_bag_is_enough(report, index, tmp_path, slide_path):
    model = tiny_retrieval_model()
    report("--model", model)
    bag = (tmp_path / "sound" / "bag.parquet").rename(tmp_path / "sound.parquet")
    (tmp_path / "sound" / "draft.json").unlink()
    code, _, draft = report("--model", model, "--cases", index, slide=bag)

    assert code == 0
    assert sorted(case.slide_id for case in draft.similar.cases) == ["a", "b"]


def test_an_index_that_is_not_there_and_a_model_that_cannot_compare_are_refused(
    report, index, model_dir, tmp_path
):
    code, printed, _ = report("--model", tiny_retrieval_model(), "--cases", tmp_path / "nowhere")
    assert code == 65
    assert "error[case-index-missing]" in printed

    code, printed, _ = report("--model", model_dir, "--cases", index)
    assert code == 65
    assert "error[model-no-retrieval]" in printed


@pytest.mark.parametrize("command", ["state", "compact"])
def test_an_index_that_is_not_there_is_not_made_by_looking_at_it(histgen, tmp_path, command):
    missing = tmp_path / "nowhere"
    for index in (missing, f"file:{missing}"):
        code, _, printed = histgen("cases", command, "--index", index)
        assert (code, "error[case-index-missing]" in printed) == (65, True)
    assert not missing.exists()


def test_model_info_says_how_often_lines_were_flagged_when_that_was_measured(histgen, tmp_path):
    figures = {"threshold": 0.3125, "right": 120, "right_flagged": 3, "wrong": 80, "wrong_flagged": 62}
    model = checking_model(tmp_path / "model", 0.3, fields={"grade": figures}, unchecked=["mitotic_score"])
    code, printed, _ = histgen("model", "info", model)
    _, as_json, _ = histgen("model", "info", model, "--json")
    row = next(line.split() for line in printed.splitlines() if line.strip().startswith("grade "))

    assert code == 0
    assert " ".join(row) == "grade 0.31 62 of 80 3 of 120"
    assert "Never checked: mitotic score" in printed
    assert json.loads(as_json)["consistency"]["fields"]["grade"] == figures
