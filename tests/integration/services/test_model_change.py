"""Slides that are between tiler and reporter while the model, and with it the tile encoder, is changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_model
from job_kit import NOW, JobLab, drafts_of, event_of, scanned

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.keys import scanned_key
from histgen_lib.catalogue.replay import replay, resend
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event
from histgen_lib.files import canonical_json
from histgen_lib.inference import OnnxServer
from histgen_lib.pipeline import load_model
from histgen_lib.testing import MemoryBus


@pytest.fixture
def lab(tmp_path, model_dir) -> JobLab:
    return JobLab.at(tmp_path, model_dir)


@pytest.fixture
def newer(lab, own_model_dir) -> JobLab:
    """Return the same lab with a model of another tile encoder."""
    config = json.loads((own_model_dir / "config.json").read_text())
    config["encoder"]["sha256"] = "00" * 32
    (own_model_dir / "config.json").write_text(json.dumps(config))
    return replace(lab, model=load_model(own_model_dir), server=OnnxServer(own_model_dir, threads=1))


def announced(lab: JobLab, name: str, seed: int, **case) -> Event:
    slide = tiny_model.write_slide(lab.folder / f"{name}.tif", side_px=512, seed=seed)
    event = event_of(scanned(slide, **case))
    lab.store.put(scanned_key(name), canonical_json({"event": event.to_json()}))
    return event


def given_up(lab: JobLab, bag: Event) -> None:
    """Have the reporter meet the other encoder's features."""
    with pytest.raises(InvalidInputError) as caught:
        lab.reporter.handle(bag, lambda *_: None)
    assert caught.value.code == "bag-other-encoder"
    letter = DeadLetter.of_event(bag, caught.value, attempts=1, worker="reporter")
    lab.store.put(letter.key, letter.to_bytes())


def test_a_replayed_letter_about_a_bag_has_its_slide_encoded_again(lab, newer):
    scan = announced(lab, "one", 1)
    (bag,) = lab.tiler.handle(scan, lambda *_: None).events
    given_up(newer, bag)
    bus = MemoryBus()
    (replayed,) = replay(lab.store, bus, now=lambda: NOW)

    assert bus.published == [replayed.event]
    assert (replayed.event.data, replayed.event.trace_id, replayed.event.source) == (
        scan.data,
        scan.trace_id,
        scan.source,
    )
    assert (replayed.event.id, replayed.event.replay) == (bag.again(now=NOW).id, 1)
    assert [one.data.slide_id for one in drafts_of(newer, bus.published)] == ["one"]


def test_the_other_slides_of_a_case_are_encoded_again_as_unfinished(lab, newer):
    case = {"case_id": "C", "case_slides": ("one", "two")}
    first, last = announced(lab, "one", 1, **case), announced(lab, "two", 2, **case)
    assert drafts_of(lab, [first]) == []
    (bag,) = newer.tiler.handle(last, lambda *_: None).events
    given_up(newer, bag)
    bus = MemoryBus()
    assert [slide.slide_id for slide in resend(lab.store, bus)] == ["one"]

    assert [one.data.slide_id for one in drafts_of(newer, bus.published)] == ["C"]


def test_without_the_gateways_record_of_a_slide_its_bag_event_is_tried_again(lab, newer):
    scan = announced(lab, "one", 1)
    (bag,) = lab.tiler.handle(scan, lambda *_: None).events
    given_up(newer, bag)
    lab.store.delete(scanned_key("one"))
    (replayed,) = replay(lab.store, MemoryBus(), now=lambda: NOW)

    assert replayed.event == bag.again(now=NOW)
