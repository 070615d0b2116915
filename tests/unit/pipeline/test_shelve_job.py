"""The librarian has the index say what the store says, whatever the order in which it hears of it."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest
from shelf_lab import ShelfLab, case, slide

from histgen_lib.catalogue.keys import ReportOwner, case_slide_key, signed_key
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.pipeline.shelve import job as shelve
from histgen_lib.retrieval.questions import Question
from histgen_lib.testing import MemoryCaseIndex

DRAFT = "Colon, biopsy:\n  Tumour"
SIGNED = "Colon, biopsy:\n  Tumour with necrosis"


@pytest.fixture
def lab() -> ShelfLab:
    lab = ShelfLab()
    lab.scan("S", ["colon", "tumour"])
    return lab


def shown(lab: ShelfLab, slide_id: str = "S") -> tuple[str, bool] | None:
    entry = lab.entry(slide_id)
    return (entry.text, entry.signed) if entry else None


def test_a_draft_is_shelved_with_the_vectors_of_its_slide_and_of_its_words(lab: ShelfLab):
    event = lab.draft(slide("S"), DRAFT)
    assert lab.deliver(event)
    entry = lab.entry("S")

    assert (entry.owner, entry.report_digest, entry.model) == (
        "S",
        event.data.report_digest,
        lab.network.digest,
    )
    assert (entry.organ, entry.diagnosis, entry.date) == ("Colon", "Tumour", "2026-01-01")
    assert len(entry.vectors.regions) == 2
    assert entry.words @ lab.networks.infer("fgcr_text", {"tokens": [1, 2]})["vector"] > 0.7
    assert (entry.signed, entry.synthetic) == (False, True)


def test_an_event_that_comes_again_finds_everything_done(lab: ShelfLab):
    event = lab.draft(slide("S"), DRAFT)
    assert lab.deliver(event)
    asked = len(lab.networks.calls)
    assert not lab.deliver(event)
    assert len(lab.networks.calls) == asked


def test_a_signed_report_has_the_persons_words_and_what_they_state(lab: ShelfLab):
    lab.deliver(lab.draft(slide("S"), DRAFT))
    _, event = lab.sign(slide("S"), SIGNED, stain="HE", site="Leeds")
    assert lab.deliver(event)
    entry = lab.entry("S")

    assert shown(lab) == (SIGNED, True)
    assert (entry.stain, entry.site, entry.synthetic) == ("HE", "Leeds", False)
    assert "necrosis" in entry.diagnosis


def test_a_later_draft_does_not_replace_a_persons_word(lab: ShelfLab):
    lab.deliver(lab.draft(slide("S"), DRAFT))
    lab.deliver(lab.sign(slide("S"), SIGNED)[1])
    assert not lab.deliver(lab.draft(slide("S"), "Breast:\n  Other", turn=1))
    assert shown(lab) == (SIGNED, True)


def test_a_correction_replaces_what_was_signed_before(lab: ShelfLab):
    lab.deliver(lab.draft(slide("S"), DRAFT))
    lab.deliver(lab.sign(slide("S"), SIGNED)[1])
    assert lab.deliver(lab.sign(slide("S"), "Colon:\n  No tumour")[1])
    assert shown(lab) == ("Colon:\n  No tumour", True)


def test_a_withdrawn_case_is_gone_and_a_late_draft_does_not_bring_it_back(lab: ShelfLab):
    lab.deliver(lab.draft(slide("S"), DRAFT))
    assert lab.deliver(lab.withdraw(slide("S")))
    assert shown(lab) is None
    lab.deliver(lab.draft(slide("S"), "Breast:\n  Other", turn=1))
    assert shown(lab) is None


def test_signing_again_brings_a_withdrawn_case_back_only_if_asked_for(lab: ShelfLab):
    lab.deliver(lab.draft(slide("S"), DRAFT))
    lab.deliver(lab.withdraw(slide("S")))
    with pytest.raises(InvalidInputError, match="withdrawn"):
        lab.sign(slide("S"), SIGNED)
    assert lab.deliver(lab.sign(slide("S"), SIGNED, reinstate=True)[1])
    assert shown(lab) == (SIGNED, True)


def test_what_is_withdrawn_is_dropped_from_storage_before_its_event_is_done(lab: ShelfLab, monkeypatch):
    """Also if the librarian was killed between removing the entries and that."""
    lab.deliver(lab.draft(slide("S"), DRAFT))
    event = lab.withdraw(slide("S"))
    dropped: list[tuple[bool, list[str]]] = []
    monkeypatch.setattr(
        lab.index, "drop_withdrawn", lambda others: dropped.append((lab.entry("S") is None, others())) or 0
    )
    lab.index.withdraw(["S"])
    assert lab.deliver(event)
    assert dropped == [(True, ["S"])]


def test_a_withdrawal_that_is_heard_again_after_it_ended_removes_nothing(lab: ShelfLab, monkeypatch):
    """Not even for a moment: the index is large, and compacting it takes its time."""
    lab.deliver(lab.draft(slide("S"), DRAFT))
    event = lab.withdraw(slide("S"))
    lab.deliver(event)
    lab.deliver(lab.sign(slide("S"), SIGNED, reinstate=True)[1])
    there: list[bool] = []
    monkeypatch.setattr(lab.index, "drop_withdrawn", lambda _: there.append(lab.entry("S") is not None) or 0)
    lab.deliver(event)
    assert there == [True]
    assert shown(lab) == (SIGNED, True)


def test_what_a_killed_librarian_wrote_to_one_of_two_versions_is_not_done(lab: ShelfLab, monkeypatch):
    event = lab.draft(slide("S"), DRAFT)
    lab.deliver(event)
    monkeypatch.setattr(lab.index, "copies", lambda slide_id: [lab.index.find(slide_id), None])
    assert lab.librarian.find(event) is None


@pytest.mark.parametrize("seed", range(12))
def test_any_order_and_any_repetition_ends_in_what_the_store_says(seed: int):
    """All is said before any of it is heard, and then heard in any order, twice."""
    lab, chance = ShelfLab(), Random(seed)
    for name in "STU":
        lab.scan(name)
    events = [lab.draft(slide(name), f"Colon:\n  Tumour {name}") for name in "STU"]
    events.append(lab.sign(slide("S"), SIGNED)[1])
    events.append(lab.sign(slide("T"))[1])
    events.append(lab.withdraw(slide("T")))
    for event in chance.sample(events * 2, k=2 * len(events)):
        lab.deliver(event)

    assert shown(lab, "S") == (SIGNED, True)
    assert shown(lab, "T") is None
    assert shown(lab, "U") == ("Colon:\n  Tumour U", False)


def join(lab: ShelfLab, owner: ReportOwner, slide_id: str) -> None:
    """Have a slide's bag noted under the case that it belongs to now."""
    if owner.is_case:
        lab.store.put(case_slide_key(owner.id, slide_id), b"{}")


class Interrupted(MemoryCaseIndex):
    """An index in which `between` happens once, just before the next entry is written."""

    between = staticmethod(lambda: None)

    def put(self, entries):
        self.between, between = staticmethod(lambda: None), self.between
        between()
        super().put(entries)


@pytest.mark.parametrize("said", ["signed", "withdrawn", "drafted"])
def test_of_two_librarians_the_last_to_write_says_what_was_said_last(said: str):
    """The other one hears of it, and writes, while this one is about to write what it read before."""
    lab = ShelfLab(Interrupted())
    lab.scan("S")
    event = lab.draft(slide("S"), DRAFT)

    def other() -> None:
        if said == "signed":
            lab.deliver(lab.sign(slide("S"), SIGNED)[1])
        elif said == "withdrawn":
            lab.deliver(lab.withdraw(slide("S")))
        else:
            lab.deliver(lab.draft(slide("S"), "Colon:\n  Glands", turn=1))

    lab.index.between = other
    lab.deliver(event)
    expected = {"signed": (SIGNED, True), "withdrawn": None, "drafted": ("Colon:\n  Glands", False)}
    assert shown(lab) == expected[said]


def test_every_slide_of_a_case_is_an_entry_with_the_cases_report():
    lab = ShelfLab()
    for name in ("A", "B"):
        lab.scan(name, case_id="C", case_slides=("A", "B"))
    assert lab.deliver(lab.draft(case("C"), DRAFT, "A", "B"))
    assert {name: lab.entry(name).owner for name in ("A", "B")} == {"A": "case/C", "B": "case/C"}
    assert lab.deliver(lab.withdraw(case("C")))
    assert not lab.index.entries


@pytest.mark.parametrize("now_of", [{}, {"case_id": "D", "case_slides": ("A",)}], ids=["alone", "case D"])
def test_a_withdrawn_slide_is_gone_though_the_index_has_it_under_the_case_that_it_was_taken_out_of(now_of):
    lab = ShelfLab()
    for name in ("A", "B"):
        lab.scan(name, case_id="C", case_slides=("A", "B"))
    lab.deliver(lab.draft(case("C"), DRAFT, "A", "B"))
    lab.scan("A", **now_of)
    owner = case("D") if now_of else slide("A")
    join(lab, owner, "A")
    assert lab.deliver(lab.withdraw(owner))
    assert shown(lab, "A") is None
    assert lab.entry("B").owner == "case/C"


def test_a_slide_that_was_withdrawn_is_not_found_under_the_case_that_it_joins_later():
    lab = ShelfLab()
    lab.scan("A")
    lab.deliver(lab.withdraw(slide("A")))
    for name in ("A", "B"):
        lab.scan(name, case_id="C", case_slides=("A", "B"))
    assert lab.deliver(lab.draft(case("C"), DRAFT, "A", "B"))
    assert shown(lab, "A") is None
    assert shown(lab, "B") == (DRAFT, False)


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_a_slide_that_joined_a_case_is_found_under_the_case(order):
    lab = ShelfLab()
    lab.scan("A")
    alone = lab.draft(slide("A"), "Colon:\n  Glands")
    for name in ("A", "B"):
        lab.scan(name, case_id="C", case_slides=("A", "B"))
    events = [alone, lab.draft(case("C"), DRAFT, "A", "B")]
    for number in order:
        lab.deliver(events[number])
    assert shown(lab, "A") == (DRAFT, False)
    assert lab.entry("A").owner == "case/C"


def test_a_signature_that_is_gone_from_the_store_is_gone_from_the_index(lab: ShelfLab):
    """The store is the truth, also after it was restored from a backup."""
    event = lab.draft(slide("S"), DRAFT)
    lab.deliver(lab.sign(slide("S"), SIGNED)[1])
    lab.store.delete(signed_key(slide("S"), event.data.report_digest))
    assert lab.deliver(event)
    assert shown(lab) == (DRAFT, False)


def test_an_index_that_does_not_keep_what_is_written_is_an_outage_not_a_loop(lab: ShelfLab, monkeypatch):
    monkeypatch.setattr(lab.index, "put", lambda entries: None)
    with pytest.raises(TransientError) as caught:
        lab.deliver(lab.draft(slide("S"), DRAFT))
    assert caught.value.code == "case-index-contended"


def test_an_outage_of_the_index_is_waited_for(lab: ShelfLab):
    lab.index.error = TransientError("case-index-unavailable", "It is away.")
    with pytest.raises(TransientError):
        lab.deliver(lab.draft(slide("S"), DRAFT))


def test_a_slide_without_a_bag_is_given_up():
    lab = ShelfLab()
    with pytest.raises(InvalidInputError) as caught:
        lab.deliver(lab.draft(slide("S"), DRAFT))
    assert caught.value.code == "object-missing"


def test_the_index_is_compacted_from_time_to_time(monkeypatch):
    lab, compacted = ShelfLab(), []
    monkeypatch.setattr(lab.index, "compact", lambda: compacted.append(len(lab.index.entries)))
    job = shelve.ShelveJob(lab.store, lab.index, lab.network, "words", compact_every=2)
    for name in "ABCDE":
        lab.scan(name)
        event = lab.draft(slide(name), f"Colon:\n  {name}")
        job.run(event, event.data)
    assert compacted == [2, 4]


def test_a_slide_never_finds_another_that_came_with_the_same_case_if_only_as_a_label():
    """Each has a report of its own; both show the same patient."""
    lab = ShelfLab()
    for name, label in (("X", "L"), ("Y", "L"), ("Z", "M"), ("new", "L")):
        lab.scan(name, ["colon", "tumour"], case_id=label)
    for name in "XYZ":
        lab.deliver(lab.draft(slide(name), f"Colon:\n  Tumour {name}"))
    assert lab.entry("X").owner == "X"
    for asked in ("X", "new"):
        for region in (None, (0, 0, 100, 100)):
            answer = lab.searcher.answer(Question(slide=asked, region=region, count=1))
            assert [found.entry.slide_id for found in answer.found] == ["Z"]
