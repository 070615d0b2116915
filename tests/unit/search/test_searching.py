"""The four tasks find what is alike, show where, leave out what nobody may see, and refuse bad questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from search_lab import MODEL, SPAN_PX, SearchLab, bag_of

from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.retrieval import Filters
from histgen_lib.retrieval.questions import MOST_TEXT, Question, read_region
from histgen_lib.retrieval.searching import MOST_PAIRS, ROUTES, Answer


def ids(answer: Answer) -> list[str]:
    return [found.entry.slide_id for found in answer.found]


def refused(lab: SearchLab, question: Question) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        lab.searcher.answer(question)
    assert caught.value.hint
    return caught.value


def ask(lab: SearchLab, **values: Any) -> Answer:
    filters = {name: values.pop(name) for name in list(values) if name in Filters.__dataclass_fields__}
    return lab.searcher.answer(Question(filters=Filters(**filters), **values))


def test_a_slide_finds_slides_that_look_like_it_and_shows_which_regions_are_alike(lab: SearchLab):
    lab.case("twin", ["stroma", "breast", "tumour"])
    answer = ask(lab, slide="b1")
    assert ids(answer)[0] == "twin"
    assert answer.source == "index"
    pairs = {(pair.here, pair.there, round(pair.similarity, 3)) for pair in answer.found[0].pairs}
    side = SPAN_PX
    assert pairs == {
        ((0, 0, side, side), (side, 0, side, side), 1.0),
        ((side, 0, side, side), (2 * side, 0, side, side), 1.0),
        ((2 * side, 0, side, side), (0, 0, side, side), 1.0),
    }


def test_a_region_finds_slides_with_such_a_region(lab: SearchLab):
    lab.bag("b1", ["breast", "tumour", "stroma"])
    answer = ask(lab, slide="b1", region=(SPAN_PX + 1, 1, SPAN_PX - 2, SPAN_PX))
    assert ids(answer)[0] == "c2"
    assert answer.source == "bag"
    assert [(pair.here, pair.there) for pair in answer.found[0].pairs] == [
        ((SPAN_PX, 0, SPAN_PX, SPAN_PX), (SPAN_PX, 0, SPAN_PX, SPAN_PX))
    ]


def test_words_find_pictures_and_each_sentence_shows_its_region(lab: SearchLab):
    answer = ask(lab, text="Colon with tumour.\nMitoses are seen.\nTumour")
    assert ids(answer)[0] == "c2"
    assert {(pair.words, pair.there[0]) for pair in answer.found[0].pairs} == {
        ("Colon with tumour.", 0),
        ("Mitoses are seen.", 2 * SPAN_PX),
        ("Tumour", SPAN_PX),
    }
    assert all(pair.here is None for pair in answer.found[0].pairs)


def test_a_slide_and_words_find_reports_by_what_was_written(lab: SearchLab):
    lab.case("written", ["other"], text="necrosis necrosis")
    assert ids(ask(lab, text="Necrosis", find="reports"))[0] == "written"
    lab.case("seen", ["necrosis"])
    assert ids(ask(lab, slide="seen", find="reports"))[0] == "written"


def test_whole_slides_are_ranked_by_their_own_vectors_and_regions_by_regions(lab: SearchLab):
    (entry,) = [one for one in lab.index.copies("c2") if one]
    vectors = replace(entry.vectors, slide=-entry.vectors.slide)
    lab.index.put([replace(entry, slide_id="x", owner="x", vectors=vectors)])
    assert ids(ask(lab, slide="c2", count=100))[-1] == "x"
    assert ids(ask(lab, slide="c2", region=(0, 0, 2 * SPAN_PX, SPAN_PX)))[0] == "x"


def test_every_task_has_a_route(lab: SearchLab):
    assert set(ROUTES) == {(k, f) for k in ("slide", "region", "text") for f in ("cases", "reports")}


def test_a_slide_that_is_not_in_the_index_is_asked_by_its_bag(lab: SearchLab):
    lab.bag("new", ["colon", "mitoses"])
    answer = ask(lab, slide="new")
    assert ids(answer)[0] == "c2"
    assert answer.source == "bag"


def test_a_slide_whose_vectors_are_of_another_network_is_encoded_again(lab: SearchLab):
    lab.case("old", ["breast"], model="n" * 64)
    lab.bag("old", ["colon", "mitoses"])
    answer = ask(lab, slide="old")
    assert ids(answer)[0] == "c2"
    assert "old" not in ids(answer)


def test_a_bag_at_hand_is_asked_in_place_of_the_store(lab: SearchLab):
    lab.searcher = replace(lab.searcher, store=None, bag=bag_of("mine", ["colon", "mitoses"]))
    assert ids(ask(lab, slide="mine"))[0] == "c2"


@pytest.mark.parametrize("region", [None, (0, 0, SPAN_PX, SPAN_PX)])
@pytest.mark.parametrize("find", ["cases", "reports"])
def test_the_case_that_is_asked_about_is_never_its_own_answer(lab: SearchLab, region, find):
    lab.bag("k1", ["breast", "mitoses"])
    assert {"k1", "k2"}.isdisjoint(ids(ask(lab, slide="k1", region=region, find=find, count=100)))


def test_without_the_store_a_region_is_asked_by_the_stored_regions_in_it(lab: SearchLab):
    lab.store.error = TransientError("storage-unavailable", "away")
    answer = ask(lab, slide="b1", region=(SPAN_PX, 0, SPAN_PX, SPAN_PX))
    assert ids(answer)[0] == "c2"
    assert answer.source == "index"
    assert refused(lab, Question("b1", region=(0, 5000, 9, 9))).code == "query-region-empty"


def test_words_and_stored_slides_need_no_store_and_stored_slides_no_model(lab: SearchLab):
    lab.store.error = TransientError("storage-unavailable", "away")
    assert ask(lab, text="colon").found
    lab.networks.error = TransientError("inference-unavailable", "away")
    assert ask(lab, slide="b1").found
    with pytest.raises(TransientError, match="away"):
        ask(lab, text="colon")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"organ": "breast"}, {"b1", "b2", "k1"}),
        ({"stain": "her2"}, {"b2"}),
        ({"site": "north"}, {"b2"}),
        ({"since": "2024-03-10", "until": "2024-04-10"}, {"c1", "c2"}),
        ({"signed": True}, {"b1"}),
        ({"synthetic": False, "organ": "Colon"}, {"c2"}),
    ],
)
def test_filters_leave_only_what_they_name(lab: SearchLab, filters, expected):
    found = {"k1" if one == "k2" else one for one in ids(ask(lab, text="tumour", count=100, **filters))}
    assert found == expected


@pytest.mark.parametrize(
    ("question", "code"),
    [
        (Question(), "query-empty"),
        (Question(text=" \n .,;"), "query-empty"),
        (Question(slide="b1", text="colon"), "query-both"),
        (Question(text="a" * (MOST_TEXT + 1)), "query-text-too-long"),
        (Question(slide="nobody"), "query-slide-unknown"),
        (Question(slide="../../etc/passwd"), "query-slide-unknown"),
        (Question(slide="a\0b"), "query-slide-unknown"),
        (Question(slide="x" * 300), "query-slide-unknown"),
        (Question(slide="b1", region=(5000, 0, 10, 10)), "query-region-outside"),
        (Question(slide="gap", region=(SPAN_PX + 10, 0, 10, 10)), "query-region-empty"),
        (Question(text="colon", region=(0, 0, 1, 1)), "query-region-malformed"),
        (Question(text="colon", filters=Filters(organ="Lung")), "organ-unknown"),
        (Question(text="colon", filters=Filters(since="yesterday")), "query-date"),
        (Question(text="colon", filters=Filters(until="2024-02-30")), "query-date"),
        (Question(text="colon", filters=Filters(since="20240101")), "query-date"),
        (Question(text="colon", filters=Filters(since="2024-02-02", until="2024-02-01")), "query-date"),
        (Question(text="colon", count=0), "query-count"),
        (Question(text="\udce4 in Latin-1"), "request-invalid"),
        (Question(text="colon", count=101), "query-count"),
    ],
)
def test_bad_questions_are_refused_with_a_code_and_a_hint(lab: SearchLab, question: Question, code: str):
    lab.bag("b1", ["breast", "tumour", "stroma"])
    lab.bag("gap", ["breast", "", "", "breast"])
    error = refused(lab, question)
    assert error.code == code
    assert "colon" not in str(error)


@pytest.mark.parametrize(
    "values",
    ["", "1,2,3", "1,2,3,x", "1,2,0,4", "1,2,3,-4", "1,2,3,4,5", [1, 2, 3], [1, 2, 3.5, 4], [1, 2, True, 4],
     {}, 7, "1,2,3,99999999999", [[1], 2, 3, 4]],
)  # fmt: skip
def test_a_malformed_region_is_refused(values: object):
    with pytest.raises(InvalidInputError) as caught:
        read_region(values)
    assert caught.value.code == "query-region-malformed"


def test_a_region_is_read_from_a_list_and_from_text():
    assert read_region("10, 20,30,40") == read_region([10, 20, 30, 40]) == (10, 20, 30, 40)


def test_an_unknown_organ_is_answered_with_those_there_are(lab: SearchLab):
    error = refused(lab, Question(text="tumour", filters=Filters(organ="Lung")))
    assert error.hint == "It has: Breast, Colon."


def test_an_organ_that_came_a_moment_ago_is_known(lab: SearchLab):
    before = lab.index.state()
    lab.searcher = replace(lab.searcher, state=lambda: before)
    lab.case("l1", ["tumour"], organ="Lung")
    assert ids(ask(lab, text="tumour", organ="lung")) == ["l1"]


def test_a_bag_of_another_encoder_is_refused(lab: SearchLab):
    lab.bag("foreign", ["breast"], encoder="f" * 64)
    assert refused(lab, Question("foreign")).code == "bag-other-encoder"


def test_of_several_bags_that_of_this_models_encoder_is_taken(lab: SearchLab):
    lab.bag("both", ["breast"], encoder="f" * 64)
    lab.bag("both", ["colon", "mitoses"])
    assert ids(ask(lab, slide="both"))[0] == "c2"


def test_a_model_without_a_retrieval_network_says_so(lab: SearchLab):
    lab.searcher = replace(lab.searcher, network=None)
    assert refused(lab, Question(text="colon")).code == "model-no-retrieval"


def test_an_empty_index_answers_an_empty_list():
    answer = ask(SearchLab(), text="colon", organ="Lung")
    assert answer.found == ()
    assert answer.state.cases == 0


@pytest.mark.parametrize(
    "values", [{"text": "breast"}, {"text": "breast", "find": "reports"}, {"slide": "b1"},
               {"slide": "b1", "find": "reports"}, {"slide": "b1", "region": (0, 0, SPAN_PX, SPAN_PX)}]
)  # fmt: skip
def test_what_is_withdrawn_is_found_by_no_task_though_the_index_still_has_it(lab: SearchLab, values):
    for number in range(30):
        lab.case(f"gone{number}", ["breast"], owner=f"gone{number}")
    lab.withdrawn |= {"case/K", *(f"gone{number}" for number in range(30))}
    lab.case("taken-out", ["breast"], owner="case/M")
    lab.withdrawn.add("taken-out")
    answer = ask(lab, count=3, **values)
    assert len(answer.found) == 3
    assert not lab.withdrawn & {
        name for found in answer.found for name in (found.entry.owner, found.entry.slide_id)
    }


@pytest.mark.parametrize("withdrawn", ["case/K", "k1"])
def test_a_withdrawn_slide_is_not_shown_either(lab: SearchLab, withdrawn: str):
    assert lab.searcher.case("k1").owner == "case/K"
    lab.withdrawn.add(withdrawn)
    with pytest.raises(InvalidInputError) as caught:
        lab.searcher.case("k1")
    assert caught.value.code == "query-slide-unknown"


def test_a_hit_has_few_pairs_the_most_alike_first(lab: SearchLab):
    lab.case("wide", ["breast"] * 20 + ["colon"] * 5)
    pairs = ask(lab, slide="wide").found[0].pairs
    assert len(pairs) == MOST_PAIRS
    assert list(pairs) == sorted(pairs, key=lambda pair: -pair.similarity)


def test_entries_of_another_network_are_not_compared(lab: SearchLab):
    lab.case("other", ["colon", "tumour", "mitoses"], model="n" * 64)
    assert "other" not in ids(ask(lab, text="colon tumour mitoses", count=100))
    assert lab.index.state().model == MODEL
