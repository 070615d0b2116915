"""The consistency check: which lines are judged, by which figures, and that it changes nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from job_kit import JobLab, scanned
from similar_lab import FIGURES, SimilarLab, checking_model, draft_in, page_in, with_figures
from tiny_retrieval import tiny_retrieval_model

from histgen_lib.bags import unpack_bag
from histgen_lib.errors import FatalError
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.fgcr.words import load_words
from histgen_lib.models.folder import open_model_folder
from histgen_lib.pipeline import Drafter, load_model
from histgen_lib.pipeline.consistency import UNCHECKED, Consistency, Figures
from histgen_lib.reports.notices import UNSUPPORTED
from histgen_lib.reports.record import Region
from histgen_lib.reports.renderers.draft_json import from_json, to_json
from histgen_lib.retrieval.encoding import encode_bag, encode_text

SOME, OTHER = Figures(0.3, 10, 1, 10, 6), Figures(0.5, 20, 2, 20, 15)
PLACE = Region(x=1, y=2, width=3, height=4)


# -- which lines are judged, and how


def test_a_line_is_judged_by_what_was_measured_of_its_field_or_not_at_all():
    check = Consistency(SOME, {"grade": OTHER}, frozenset({"mitotic_score"}))

    assert check.figures_of("- Grade: 2") == ("grade", OTHER)
    assert check.figures_of("- Mitotic score: 1") is None, "it cannot be checked"
    assert check.figures_of("- Necrosis: present") is None, "it was never measured"
    assert UNCHECKED.figures_of("- Grade: 2") is None


def test_where_no_fields_were_measured_apart_the_figures_of_all_lines_judge():
    check = Consistency(SOME, unchecked=frozenset({"mitotic_score"}))

    assert check.figures_of("- Necrosis: present") == check.figures_of("Invasive carcinoma") == ("", SOME)
    assert check.figures_of("- Mitotic score: 1") is None


@pytest.mark.parametrize(
    ("score", "supported"), [(0.5, True), (0.49996, True), (0.4999, False), (-1.0, False)]
)
def test_a_line_is_supported_from_the_threshold_on_as_the_record_states_both(score, supported):
    judged = Consistency(SOME, {"grade": OTHER}).judge("- Grade: 2", score, PLACE)

    assert judged.supported is supported
    assert judged.supported == (judged.score >= judged.threshold)
    assert (judged.rates.field, judged.rates.right, judged.rates.wrong_flagged) == ("grade", 20, 15)
    assert judged.region == PLACE


def test_figures_survive_the_config():
    check = Consistency(SOME, {"grade": OTHER}, frozenset({"b", "a"}))

    assert Consistency.from_config(json.loads(json.dumps(check.to_config()))) == check
    assert Consistency.from_config(UNCHECKED.to_config()) == UNCHECKED == Consistency.from_config({})


@pytest.mark.parametrize(
    "config",
    [
        {"lines": {"threshold": 0.3}},
        {"lines": {"threshold": 2.0, **FIGURES}},
        {"lines": {"threshold": 0.3, **FIGURES, "right_flagged": 121}},
        {"lines": {"threshold": 0.3, **FIGURES, "wrong": 0, "wrong_flagged": 0}},
        {"lines": {"threshold": "nan", **FIGURES}},
        {"fields": ["grade"]},
        {"unchecked": 3},
    ],
)
def test_figures_that_cannot_be_are_refused(config):
    with pytest.raises(FatalError) as caught:
        Consistency.from_config(config)
    assert caught.value.code == "model-config-invalid"


# -- in a draft


def drafted(folder, model) -> SimilarLab:
    lab = SimilarLab.scanned(folder, model)
    lab.lab.draft(lab.ready)
    return lab


@pytest.fixture(scope="module")
def flagging(tmp_path_factory) -> SimilarLab:
    """Draft with a network that no line satisfies, and that does not check the head line."""
    folder = tmp_path_factory.mktemp("flagging")
    return drafted(folder, checking_model(folder / "model", 1.0, unchecked=["organ"]))


def test_the_score_is_the_best_cosine_of_the_line_with_any_region(flagging):
    lab, draft = flagging.lab, draft_in(flagging.lab.store)
    bag = unpack_bag(lab.store.get(flagging.ready.bag_key), "the bag")
    vectors = encode_bag(lab.server, bag)
    words = load_words(lab.model.folder)
    judged = [one for one in draft.sentences if one.support]

    assert judged
    for line in judged:
        cosines = vectors.regions @ encode_text(lab.server, words, line.text)
        assert line.support.score == pytest.approx(cosines.max(), abs=1e-4)
        x, y, width, height = map(int, vectors.boxes[np.argmax(cosines)])
        assert line.support.region == Region(x=x, y=y, width=width, height=height)


def test_the_draft_is_the_same_but_for_its_flags(flagging, tmp_path):
    plain = drafted(tmp_path, tiny_retrieval_model())
    ours, theirs = draft_in(flagging.lab.store), draft_in(plain.lab.store)
    unflagged = [one.model_copy(update={"support": None}) for one in ours.sentences]

    assert theirs.sentences == tuple(unflagged)
    assert all(one.support is None or not one.support.supported for one in ours.sentences)
    for name in ("text", "fields", "confidence", "abstained", "abstention", "out_of_distribution"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_flags_are_shown_and_counted(flagging, tmp_path):
    again = flagging.copy(tmp_path)
    for info in list(again.lab.store.list("reports/")):
        again.lab.store.delete(info.key)
    done = again.lab.draft(flagging.ready)
    draft, page = draft_in(again.lab.store), page_in(again.lab.store)
    flagged = sum(one.support is not None for one in draft.sentences)

    assert done.measures["histgen_unsupported_sentences_total"] == flagged > 0
    assert page.count(UNSUPPORTED) == flagged


def test_lines_that_cannot_be_checked_are_left_alone(flagging):
    for line in draft_in(flagging.lab.store).sentences:
        assert (line.support is None) == line.text.endswith(":"), "the head line states the organ"


def test_other_figures_make_another_model_and_leave_the_vectors_as_they_are(flagging, tmp_path):
    other = open_model_folder(checking_model(tmp_path / "model", 0.2))
    ours = flagging.lab.model.folder

    assert other.digest != ours.digest
    assert other.retrieval_digest == ours.retrieval_digest


def test_a_bag_without_places_is_drafted_unchecked(tmp_path, flagging):
    bag = unpack_bag(flagging.lab.store.get(flagging.ready.bag_key), "the bag")
    drafted = Drafter(flagging.lab.model, flagging.lab.server).draft(replace(bag, span_px=float("nan")))

    assert drafted.seen == ()
    assert all(one.support is None for one in drafted.draft.sentences)


def test_the_lines_of_a_case_are_compared_with_the_regions_of_all_its_slides(tmp_path):
    model = with_figures(checking_model(tmp_path / "model", -1.0), {"lines": {"threshold": -1.0, **FIGURES}})
    lab = JobLab.at(tmp_path, model)
    for seed, name in enumerate("ab"):
        slide = tiny_model.write_slide(tmp_path / f"{name}.tif", side_px=640, seed=seed)
        ready = lab.scan_job.make_bag(scanned(slide, case_id="C", case_slides=("a", "b")))
        done = lab.draft(ready)
    data = lab.store.get(done.data.draft_key)
    draft = from_json(data)

    assert {one.support.slide_id for one in draft.sentences} <= {"a", "b"}
    assert all(one.support.supported for one in draft.sentences)
    assert to_json(draft) == data


def test_the_documented_rates_are_those_of_the_shipped_model():
    """`histgen model info` shows them."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "draft-schema.md").read_text(encoding="utf-8")
    check = load_model(SHIPPED_MODEL).consistency
    stated = [row.split(" | ") for row in text.splitlines() if re.fullmatch(r"\|.*\d+ of \d+ \|", row)]
    measured = {"all lines": check.lines, **check.fields}

    assert [[cell.strip("| ") for cell in row] for row in stated] == [
        [name.replace("_", " "), f"{one.wrong_flagged} of {one.wrong}", f"{one.right_flagged} of {one.right}"]
        for name, one in measured.items()
    ]
    assert f"Never checked: {', '.join(sorted(check.unchecked)).replace('_', ' ')}." in text
