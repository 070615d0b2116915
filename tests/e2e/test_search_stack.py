"""A slide's way into the case index and out of it again, with everything that `histgen up` starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from running_stack import RunningStack, stack_up
from tiny_retrieval import tiny_retrieval_model
from waiting import until

ENVIRONMENT = {"HISTGEN_SETTLE_S": "0.5", "HISTGEN_LOOK_S": "0.2", "HISTGEN_SEARCH_LOOK_S": "0.2"}
SLIDES = ("first", "second", "third")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Run one stack, with a model that has a retrieval network, and three slides in it."""
    home = tmp_path_factory.mktemp("search") / "home"
    slides = home.parent / "slides"
    slides.mkdir()
    options = ("--inference", "onnx", "--model", tiny_retrieval_model(trained=True), "--allow", slides)
    paths = [tiny_model.write_slide(slides / f"{one}.tif", seed=i) for i, one in enumerate(SLIDES)]
    with stack_up(home, *options, env=ENVIRONMENT) as running:
        run = running("submit", *paths, "--wait")
        assert run.code == 0, run.output
        yield running


def found(stack: RunningStack, *asked: object) -> dict[str, Any]:
    """Return the hits of a search by their slides; {} while it cannot be answered."""
    answer = stack.json("search", *asked)
    return {hit["slide_id"]: hit for hit in answer.get("hits", [])}


def test_drafted_slides_are_found_by_pictures_regions_and_words(stack: RunningStack):
    until(lambda: set(found(stack, "--slide", "first")) == {"second", "third"}, 120, "both are found")
    assert set(found(stack, "--slide", "first", "--find", "reports")) == {"second", "third"}
    assert set(found(stack, "--text", "adenocarcinoma")) == set(SLIDES)
    hits = found(stack, "--slide", "first", "--region", "512,512,512,512")
    assert set(hits) == {"second", "third"}
    pair = hits["second"]["pairs"][0]
    assert len(pair["here"]) == len(pair["there"]) == 4
    assert not any(hit["report"]["signed"] for hit in hits.values())


def test_a_box_outside_the_slide_is_refused_as_the_page_says(stack: RunningStack):
    run = stack("search", "--slide", "first", "--region", "90000,0,10,10")
    assert run.code == 65
    assert "query-region-outside" in run.output


def test_what_a_person_signed_is_found_as_signed_and_what_is_withdrawn_by_nobody(
    stack: RunningStack, tmp_path: Path
):
    report = tmp_path / "report.txt"
    report.write_text("Colon, endoscopic biopsy:\n  Adenocarcinoma\n  - Grade: 1\n")
    assert stack("sign", "second", "--text", report, "--stain", "HE").code == 0
    signed = until(lambda: found(stack, "--slide", "first", "--signed"), 60, "it is found as signed")
    assert set(signed) == {"second"}
    assert signed["second"]["report"]["text"] == report.read_text().strip()
    assert signed["second"]["stain"] == "HE"
    assert set(found(stack, "--text", "adenocarcinoma", "--organ", "colon", "--stain", "he")) == {"second"}

    assert stack("withdraw", "second", "--reason", "wrong patient").code == 0
    for asked in (
        ("--slide", "first"),
        ("--slide", "first", "--find", "reports"),
        ("--slide", "first", "--region", "512,512,512,512"),
        ("--text", "adenocarcinoma"),
        ("--text", "adenocarcinoma", "--find", "reports"),
    ):
        until(lambda asked=asked: "second" not in found(stack, *asked), 60, f"{asked} leaves it out")
