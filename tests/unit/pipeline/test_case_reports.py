"""The slides of a case get one report together, the same whichever of them comes last."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from job_kit import JobLab, Killed, scanned

from histgen_lib.bags import unpack_bag
from histgen_lib.catalogue.case import join_case, missing_slides
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.draft_json import from_json, to_json

SLIDES = ("b", "a", "c")
"""The case's order; not the alphabet's."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory, model_dir) -> tuple[Path, dict[str, BagReady]]:
    """Scan three slides of a case, one of them at another scale."""
    folder = tmp_path_factory.mktemp("case")
    lab = JobLab.at(folder, model_dir)
    ready = {}
    for number, name in enumerate(SLIDES):
        slide = tiny_model.write_slide(
            folder / f"{name}.tif", side_px=640, seed=number, mpp=0.5 if name != "c" else 0.4
        )
        ready[name] = lab.scan_job.make_bag(scanned(slide, case_id="C-7", case_slides=SLIDES))
    return folder, ready


@pytest.fixture
def ready(scans) -> dict[str, BagReady]:
    return scans[1]


@pytest.fixture
def make_lab(scans, tmp_path, model_dir):
    """Make labs whose stores hold the three bags."""

    def make(name: str = "lab") -> JobLab:
        return JobLab.copy_of(scans[0], tmp_path / name, model_dir)

    return make


def draft_of(lab: JobLab) -> DraftReport:
    pointer = json.loads(lab.store.get("case-reports/C-7/latest.json"))
    return from_json(lab.store.get(pointer["draft"]))


def report_of(lab: JobLab) -> dict[str, bytes]:
    return lab.store.contents("case-reports/")


def test_nothing_is_published_until_all_slides_are_there(make_lab, ready):
    lab = make_lab()
    for name in ("a", "b"):
        assert lab.find_draft(ready[name]) is None
        assert lab.draft(ready[name]).data is None
        assert lab.find_draft(ready[name]).data is None
    assert report_of(lab) == {}
    assert missing_slides(lab.store, "C-7", SLIDES) == ["c"]


def test_the_last_slide_leads_to_one_report_of_the_case(make_lab, ready):
    lab = make_lab()
    drafted = [lab.draft(ready[name]).data for name in SLIDES]
    draft = draft_of(lab)

    assert drafted[:2] == [None, None]
    assert (drafted[2].slide_id, drafted[2].case_id) == ("C-7", "C-7")
    assert {key.split("/")[1] for key in report_of(lab)} == {"C-7"}
    assert (draft.slide_id, draft.case_id) == ("C-7", "C-7")
    assert [slide.slide_id for slide in draft.slides] == list(SLIDES)
    assert [slide.slide.tiles for slide in draft.slides] == [ready[name].tiles for name in SLIDES]
    assert draft.provenance.slide.tiles == sum(slide.slide.tiles for slide in draft.slides)
    assert missing_slides(lab.store, "C-7", SLIDES) == []


@pytest.mark.parametrize("order", list(itertools.permutations(SLIDES)))
def test_the_bytes_do_not_depend_on_the_order_in_which_slides_arrive(make_lab, ready, order):
    lab, reference = make_lab(), make_lab("reference")
    for name in order:
        lab.draft(ready[name])
    for name in SLIDES:
        reference.draft(ready[name])

    assert report_of(lab) == report_of(reference)


def test_racing_last_slides_make_the_same_report(make_lab, ready, monkeypatch):
    """Both reporters see the case complete; one is through before the other begins to draft."""
    lab, reference = make_lab(), make_lab("reference")
    lab.draft(ready["a"])
    join_case(lab.store, ready["c"])
    drafted, infer = [], lab.server.infer

    def racing(*requests):
        monkeypatch.setattr(lab.server, "infer", infer)
        drafted.append(lab.draft(ready["c"]).data)
        return infer(*requests)

    monkeypatch.setattr(lab.server, "infer", racing)
    drafted.append(lab.draft(ready["b"]).data)
    for name in SLIDES:
        reference.draft(ready[name])

    assert drafted[0] == drafted[1]
    assert report_of(lab) == report_of(reference)
    assert lab.store.replaced == []


def test_evidence_says_which_slide_it_lies_on(make_lab, ready):
    lab = make_lab()
    for name in SLIDES:
        lab.draft(ready[name])
    bags = {name: unpack_bag(lab.store.get(ready[name].bag_key), name) for name in SLIDES}
    tiles = [tile for sentence in draft_of(lab).sentences for tile in sentence.evidence]

    assert tiles
    for tile in tiles:
        assert [tile.x, tile.y] in bags[tile.slide_id].xy.tolist()
        assert tile.span_px == pytest.approx(bags[tile.slide_id].span_px, abs=1e-3)


def test_each_slide_has_its_regions_to_itself(make_lab, ready, monkeypatch):
    lab = make_lab()
    requests = []
    infer = lab.server.infer
    monkeypatch.setattr(lab.server, "infer", lambda model, t: requests.append((model, t)) or infer(model, t))
    for name in SLIDES:
        lab.draft(ready[name])
    (model, tensors) = requests[-1]
    counts = [ready[name].tiles for name in SLIDES]

    assert model == "histgen"
    assert tensors["slide"].tolist() == np.repeat(range(3), counts).tolist()
    assert len(tensors["features"]) == len(tensors["xy"]) == sum(counts)
    steps = [np.diff(np.unique(tensors["xy"][tensors["slide"] == i][:, 0])).min() for i in range(3)]
    assert max(steps) - min(steps) <= 2, "places come at one scale, whatever the slides' are"


def test_the_page_and_the_text_show_the_slides_of_the_case(make_lab, ready):
    lab = make_lab()
    for name in SLIDES:
        lab.draft(ready[name])
    stored = report_of(lab)
    page = next(data for key, data in stored.items() if key.endswith("draft.html")).decode()
    text = next(data for key, data in stored.items() if key.endswith("draft.txt")).decode()
    stages = _Stages()
    stages.feed(page)

    assert "Case C-7: slides b, a, c" in text
    assert stages.thumbnails == 3
    assert "no pixels" not in page
    pictures = {key.split("/", 3)[3] for key in stored if key.endswith(".webp")}
    assert pictures == {f"{name}/{kind}.webp" for name in SLIDES for kind in ("thumbnail", "heatmap")}


class _Stages(HTMLParser):
    thumbnails = 0

    def handle_starttag(self, tag, attrs):
        self.thumbnails += dict(attrs).get("class") == "thumbnail"


def test_the_record_of_a_case_survives_the_round_trip(make_lab, ready):
    lab = make_lab()
    for name in SLIDES:
        lab.draft(ready[name])
    draft = draft_of(lab)

    assert from_json(to_json(draft)) == draft
    assert b'"case_id"' in to_json(draft)


def test_doing_it_again_gives_the_same_report_and_writes_nothing(make_lab, ready):
    lab = make_lab()
    drafted = [lab.draft(ready[name]).data for name in SLIDES][-1]
    lab.store.written.clear()
    again = lab.without_slides()
    for name in SLIDES:
        assert again.find_draft(ready[name]).data == drafted
        assert lab.draft(ready[name]).data == drafted
    assert lab.store.written == lab.store.replaced == []


@pytest.mark.parametrize("writes", [0, 1, 2, 5, 9, 10, 11])
def test_a_case_is_completed_after_a_crash_anywhere(make_lab, ready, writes):
    lab, undisturbed = make_lab(), make_lab("undisturbed")
    for name in SLIDES:
        undisturbed.draft(ready[name])
    for name in ("b", "a"):
        lab.draft(ready[name])
    lab.store.dies_after = writes
    with pytest.raises(Killed):
        lab.draft(ready["c"])
    lab.store.dies_after = None
    done = lab.find_draft(ready["c"]) or lab.draft(ready["c"])

    assert done.data is not None
    assert lab.store.contents() == undisturbed.store.contents()


def test_a_rescan_of_one_slide_gives_the_case_a_new_report(make_lab, ready):
    lab = make_lab()
    first = [lab.draft(ready[name]).data for name in SLIDES][-1]
    path = tiny_model.write_slide(lab.folder / "a.tif", side_px=640, seed=77)
    rescan = lab.scan_job.make_bag(scanned(path, case_id="C-7", case_slides=SLIDES))
    second = lab.draft(rescan).data
    pointer = json.loads(lab.store.get("case-reports/C-7/latest.json"))

    assert second.report_digest != first.report_digest
    assert (pointer["report_digest"], pointer["previous"]) == (second.report_digest, [first.report_digest])
    assert lab.find_draft(ready["a"]).data == second, "the older scan's event is done with"


def test_a_slide_that_comes_back_brings_the_cases_report_back(make_lab, ready):
    """It is another's bag for a while, as after a mistake; late events of that change nothing any more."""
    lab = make_lab()
    first = [lab.draft(ready[name]).data for name in SLIDES][-1]
    path = tiny_model.write_slide(lab.folder / "a.tif", side_px=640, seed=77)
    mistaken = lab.scan_job.make_bag(scanned(path, case_id="C-7", case_slides=SLIDES))
    other = lab.draft(mistaken).data
    back = lab.draft(replace(ready["a"], turn=1)).data
    late = lab.draft(mistaken).data
    pointer = json.loads(lab.store.get("case-reports/C-7/latest.json"))

    assert first.report_digest == back.report_digest == late.report_digest == pointer["report_digest"]
    assert other.report_digest != first.report_digest
    assert pointer["turn"] == 1


def test_a_case_that_does_not_name_the_slide_is_refused(make_lab, ready):
    stray = replace(ready["a"], case_slides=("b", "c"))
    for call in (make_lab().draft, make_lab("again").find_draft):
        with pytest.raises(InvalidInputError) as caught:
            call(stray)
        assert caught.value.code == "case-slide-unlisted"


def test_a_case_that_names_no_slides_is_only_a_label(make_lab, ready):
    lab = make_lab()
    drafted = lab.draft(replace(ready["a"], case_slides=())).data

    assert (drafted.slide_id, drafted.case_id) == ("a", None)


def test_a_case_of_one_slide_is_a_case(make_lab, ready):
    lab = make_lab()
    drafted = lab.draft(replace(ready["a"], case_slides=("a",))).data
    draft = draft_of(lab)

    assert drafted.slide_id == "C-7"
    assert [slide.slide_id for slide in draft.slides] == ["a"]
    assert {tile.slide_id for sentence in draft.sentences for tile in sentence.evidence} == {"a"}


def test_the_stored_members_of_a_case_are_checked(make_lab, ready):
    lab = make_lab()
    for name in ("a", "b"):
        lab.draft(ready[name])
    lab.store.inner.put("cases/C-7/a.json", b"{}", if_absent=False)
    lab.store.inner.delete("cases/C-7/a.history/000001.json")
    with pytest.raises(InvalidInputError) as caught:
        lab.draft(ready["c"])
    assert caught.value.code == "case-unreadable"
