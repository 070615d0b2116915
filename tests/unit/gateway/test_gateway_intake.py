"""The intake announces each slide once, never mixes two, and a crash at any point loses nothing."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest
from gateway_fakes import GatewayLab, Killed, Objects
from history import ANNOUNCED

from histgen_lib.access.places import FilePlace, ObjectPlace
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.audit import Entry
from histgen_lib.catalogue.dead_letter import DeadLetter, read_dead_letter
from histgen_lib.catalogue.replay import replay
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import BagReady, Event
from histgen_lib.files import sha256_hex
from services.gateway import intake
from services.gateway.intake import identity
from services.gateway.submission import Case, Submission


def test_a_new_slide_is_announced_with_its_bytes_digest_and_size(lab: GatewayLab):
    path = lab.file("a.svs", b"pixels")
    receipt = lab.submit(path, mpp=0.25)
    (event,) = lab.bus.scanned
    assert (receipt.slide_id, receipt.status, receipt.event_id) == ("a", "accepted", event.id)
    data = event.data
    assert (data.slide_id, data.uri, data.mpp, data.size_bytes) == ("a", path.as_uri(), 0.25, 6)
    assert data.content_id == sha256_hex(b"pixels")
    assert Event.from_json(json.loads(lab.store.kept["slides/a/scanned.json"])["event"]) == event


def test_an_announcement_is_logged_in_words_that_chaos_runs_look_for(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    logged: list[str] = []
    monkeypatch.setattr(intake, "_log", SimpleNamespace(info=lambda event, **_: logged.append(event)))
    lab.submit(lab.file("a.svs"))
    assert logged == [ANNOUNCED]


def test_the_event_id_follows_from_slide_bytes_mpp_and_case_alone(lab: GatewayLab):
    lab.submit(lab.file("a.svs"), mpp=0.5, case=Case("C1", ("b", "a")))
    (event,) = lab.bus.scanned
    again = Event.first(event.data, source="x", now=event.time, identity=identity(event.data))
    assert event.id == again.id
    assert identity(event.data) == f"a|{sha256_hex(b'pixels')}|0.5|C1:a,b"


def test_submitting_a_slide_again_announces_nothing(lab: GatewayLab):
    path = lab.file("a.svs")
    first, second = lab.submit(path), lab.submit(path)
    assert (second.status, second.event_id) == ("duplicate", first.event_id)
    assert len(lab.bus.published) == 1


def test_the_same_bytes_from_elsewhere_are_the_same_slide(lab: GatewayLab):
    first = lab.submit(lab.file("a.svs"))
    lab.object("lab", "incoming/a.svs")
    second = lab.submit(ObjectPlace("lab", "incoming/a.svs"))
    copy = lab.submit(lab.file("copies/a of a.svs"))
    assert [second.status, copy.status] == ["duplicate", "duplicate"]
    assert {copy.slide_id, second.slide_id} == {"a"}
    assert {copy.event_id, second.event_id} == {first.event_id}
    assert len(lab.bus.published) == 1


def test_a_copy_gets_its_own_id_if_one_is_stated(lab: GatewayLab):
    lab.submit(lab.file("a.svs"))
    assert lab.submit(lab.file("b.svs"), slide_id="b").status == "accepted"
    assert [event.key for event in lab.bus.scanned] == ["a", "b"]


def test_new_bytes_at_the_same_uri_are_a_rescan(lab: GatewayLab):
    first = lab.submit(lab.file("a.svs", b"one"))
    second = lab.submit(lab.file("a.svs", b"two"))
    assert (second.status, second.slide_id) == ("rescan", "a")
    assert first.event_id != second.event_id
    latest = json.loads(lab.store.kept["slides/a/scanned.json"])
    assert latest["event"]["data"]["content_id"] == sha256_hex(b"two")


def test_other_bytes_from_elsewhere_under_a_taken_id_become_a_dead_letter(lab: GatewayLab):
    lab.submit(lab.file("one/a.svs", b"one"))
    other = lab.file("two/a.svs", b"two")
    receipt = lab.submit(other)
    assert receipt.status == "dead-letter"
    assert receipt.letter.code == "slide-id-taken"
    assert len(lab.bus.scanned) == 1
    (event,) = lab.bus.letters
    assert (event.data.slide_id, event.data.event_id, event.data.code) == (
        "a",
        receipt.event_id,
        "slide-id-taken",
    )
    letter = read_dead_letter(lab.store, receipt.event_id)
    assert letter.event.data.uri == other.as_uri()
    assert "replay" not in receipt.hint


def test_a_refused_slide_submitted_again_is_refused_again_with_one_letter(lab: GatewayLab):
    lab.submit(lab.file("one/a.svs", b"one"))
    other = lab.file("two/a.svs", b"two")
    ids = {lab.submit(other).event_id, lab.submit(other).event_id}
    assert len(ids) == 1
    assert sum(key.startswith("dead-letter/") for key in lab.store.kept) == 1


def test_a_refused_slide_is_accepted_under_another_id(lab: GatewayLab):
    lab.submit(lab.file("one/a.svs", b"one"))
    other = lab.file("two/a.svs", b"two")
    lab.submit(other)
    assert lab.submit(other, slide_id="a-2").status == "accepted"


def test_a_refused_slide_may_take_the_place_of_the_one_that_was_in_its_way(lab: GatewayLab):
    lab.submit(lab.file("one/a.svs", b"one"))
    lab.submit(lab.file("two/a.svs", b"two"))
    assert lab.submit(lab.file("one/a.svs", b"two")).status == "rescan"


def test_a_scale_stated_later_makes_a_new_event(lab: GatewayLab):
    path = lab.file("a.svs")
    first, second = lab.submit(path), lab.submit(path, mpp=0.25)
    assert second.status == "accepted"
    assert first.event_id != second.event_id


def test_what_is_not_stated_stays_as_it_was_stated_before(lab: GatewayLab):
    path = lab.file("a.svs")
    scaled = lab.submit(path, mpp=0.25)
    assert lab.submit(path).event_id == scaled.event_id
    assert lab.submit(path, case=Case("C1", ("a", "b"))).status == "accepted"
    assert lab.bus.scanned[-1].data.mpp == 0.25
    assert lab.submit(path).event_id == lab.bus.scanned[-1].id


def test_statements_about_other_bytes_do_not_carry_over(lab: GatewayLab):
    lab.submit(lab.file("a.svs", b"one"), mpp=0.25)
    lab.submit(lab.file("a.svs", b"two"))
    assert lab.bus.scanned[-1].data.mpp is None


def _replayed(lab: GatewayLab, event: Event) -> Event:
    """Do what `histgen replay` does with an event's letter."""
    lab.store.put(f"dead-letter-replayed/{event.name}.json", b"{}")
    return event.again(now=event.time)


def _bag(lab: GatewayLab, event: Event) -> Event:
    """Make what the tiler publishes."""
    data = BagReady(event.key, event.data.uri, event.data.content_id, "b", "s", "d", 1, 1)
    return event.then(data, source="/histgen/tiler", now=event.time)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (_replayed,),
        (_bag,),
        (_bag, _replayed),
        (_replayed, _bag),
        (_replayed, _bag, _replayed, _bag),
        (_replayed, _replayed, _replayed),
    ],
    ids=["tiler", "replayed", "reporter", "reporter-replayed", "replayed-reporter", "twice", "thrice"],
)
def test_a_given_up_slide_is_answered_with_the_reason_and_how_to_replay(lab: GatewayLab, steps):
    path = lab.file("a.svs")
    lab.submit(path)
    given_up = lab.bus.scanned[0]
    for step in steps:
        given_up = step(lab, given_up)
    reason = InvalidInputError("slide-no-tissue", "There is no tissue.", hint="Look at the slide.")
    letter = DeadLetter.of_event(given_up, reason, attempts=1, worker="tiler")
    lab.store.put(letter.key, letter.to_bytes())
    receipt = lab.submit(path)
    assert (receipt.status, receipt.letter.code) == ("dead-letter", "slide-no-tissue")
    assert "Look at the slide." in receipt.hint
    assert "histgen replay" in receipt.hint
    assert len(lab.bus.published) == 1


def test_a_slide_whose_letter_was_replayed_is_a_duplicate_again(lab: GatewayLab):
    path = lab.file("a.svs")
    lab.submit(path)
    letter = DeadLetter.of_event(
        lab.bus.scanned[0], InvalidInputError("x-y", "z"), attempts=1, worker="tiler"
    )
    lab.store.put(letter.key, letter.to_bytes())
    list(replay(lab.store, lab.bus))
    assert lab.submit(path).status == "duplicate"


def test_what_the_gateway_gave_up_is_not_replayed_but_submitted_again(lab: GatewayLab):
    lab.submit(lab.file("one/a.svs", b"one"))
    lab.submit(lab.file("two/a.svs", b"two"))
    (outcome,) = replay(lab.store, lab.bus)
    assert outcome.refused.code == "replay-impossible"
    assert len(lab.bus.scanned) == 1


def test_a_state_that_was_dealt_with_is_not_read_again(lab: GatewayLab):
    lab.object("lab", "a.svs")
    place = ObjectPlace("lab", "a.svs")
    first = lab.submit(place, mark="m1")
    second = lab.submit(place, mark="m1")
    assert (second.status, second.event_id, second.slide_id) == ("duplicate", first.event_id, "a")
    assert lab.buckets["lab"].reads == 1


@pytest.mark.parametrize("dies_at", ["slides/a/", "gateway/contents/", "gateway/seen/", "gateway/owners/"])
def test_after_a_kill_anywhere_a_resubmitted_slide_has_the_same_event(lab: GatewayLab, dies_at: str):
    path = lab.file("a.svs")
    lab.store.dies_at = dies_at
    with pytest.raises(Killed):
        lab.submit(path, mark="m")
    lab.store.dies_at = ""
    lab.restarted()
    lab.submit(path, mark="m")
    assert len({event.id for event in lab.bus.scanned}) == 1
    lab.restarted()
    assert lab.submit(path).status == "duplicate"
    assert {"slides/a/scanned.json", "gateway/owners/a", "gateway/seen/m"} <= set(lab.store.kept)


def test_nothing_is_recorded_before_it_is_acknowledged(lab: GatewayLab):
    lab.bus.away = True
    with pytest.raises(TransientError, match="broker"):
        lab.submit(lab.file("a.svs"), mark="m")
    assert set(lab.store.kept) == {"gateway/owners/a", "audit/000000000001.json"}
    lab.bus.away = False
    assert lab.submit(lab.file("a.svs"), mark="m").status == "accepted"


def test_the_audit_log_names_the_submitter_once_and_not_the_slides_place(lab: GatewayLab):
    lab.bus.away = True
    for _ in range(3):  # the watched folder tries again while the broker is away
        with pytest.raises(TransientError):
            lab.submit(lab.file("jane-doe/a.svs"))
    lab.bus.away = False
    event_id = lab.submit(lab.file("jane-doe/a.svs")).event_id
    lab.submit(lab.file("jane-doe/a.svs"))  # a duplicate changes nothing

    (data,) = [data for key, data in lab.store.kept.items() if key.startswith("audit/")]
    entry = Entry.from_bytes(data)
    assert entry
    assert (entry.action, entry.by) == ("submitted", "http")
    assert entry.what == {"slide_id": "a", "event_id": event_id, "outcome": "accepted", "via": "http"}
    assert b"jane" not in data


def test_the_audit_log_includes_slides_given_up_for_a_taken_id(lab: GatewayLab):
    lab.submit(lab.file("one/a.svs", b"one"))
    lab.submit(lab.file("two/a.svs", b"two"))
    written = [Entry.from_bytes(data) for key, data in lab.store.kept.items() if key.startswith("audit/")]
    assert [entry and entry.what["outcome"] for entry in written] == ["accepted", "dead-letter"]


def test_an_id_claimed_by_a_slide_that_was_never_announced_is_not_given_to_another(lab: GatewayLab):
    lab.bus.away = True
    with pytest.raises(TransientError):
        lab.submit(lab.file("one/a.svs", b"one"))
    lab.bus.away = False
    assert lab.submit(lab.file("two/a.svs", b"two")).status == "dead-letter"
    assert lab.submit(lab.file("copy/a.svs", b"one")).status == "accepted"


def test_a_slide_submitted_by_many_at_once_is_announced_once(lab: GatewayLab):
    places = [lab.file(f"{folder}/a.svs") for folder in range(4)]
    lab.object("lab", "a.svs")
    all_places = [*map(FilePlace, places), ObjectPlace("lab", "a.svs")] * 4
    receipts = []
    threads = [
        threading.Thread(
            target=lambda place=place: receipts.append(lab.intake.submit(Submission(place, "s3")))
        )
        for place in all_places
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(receipt.status for receipt in receipts) == ["accepted", *["duplicate"] * 19]
    assert len(lab.bus.published) == 1


def test_two_processes_with_two_slides_of_one_name_announce_one(lab: GatewayLab):
    """Both read before either writes; only the claim decides."""
    one, two = lab.file("one/a.svs", b"one"), lab.file("two/a.svs", b"two")
    first, second = lab.restarted(), lab.restarted()
    together = threading.Barrier(2)
    found = Objects.list

    def listed(store: Objects, prefix: str = ""):
        result = found(store, prefix)
        if prefix.startswith("gateway/contents/"):
            together.wait(10)
        return result

    receipts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objects, "list", listed)
        threads = [
            threading.Thread(
                target=lambda i=process, p=path: receipts.append(i.submit(Submission(FilePlace(p), "s3")))
            )
            for process, path in ((first, one), (second, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(receipt.status for receipt in receipts) == ["accepted", "dead-letter"]
    assert len(lab.bus.scanned) == 1


def test_waiting_too_long_for_the_broker_is_a_transient_error(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(intake, "DECIDE_S", 0.01)
    lab.intake._deciding.acquire()
    with pytest.raises(TransientError) as caught:
        lab.submit(lab.file("a.svs"))
    assert caught.value.code == "gateway-busy"


def test_a_case_must_name_its_slide(lab: GatewayLab):
    with pytest.raises(InvalidInputError) as caught:
        lab.submit(lab.file("a.svs"), case=Case("C1", ("b", "c")))
    assert caught.value.code == "case-invalid"
    assert lab.bus.published == []


def test_the_event_includes_the_case(lab: GatewayLab):
    lab.submit(lab.file("a.svs"), case=Case("C1", ("a", "b")))
    assert (lab.bus.scanned[0].data.case_id, lab.bus.scanned[0].data.case_slides) == ("C1", ("a", "b"))


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a b", "ä", ".a", "a.", "a" * 129, "a\n", "a\0"])
def test_an_id_that_cannot_be_a_key_is_refused(lab: GatewayLab, bad: str):
    path = lab.file("a.svs")
    for fields in ({"slide_id": bad}, {"case": Case(bad, ("a",))}, {"case": Case("C", ("a", bad))}):
        with pytest.raises(InvalidInputError) as caught:
            lab.submit(path, **fields)
        assert caught.value.code in ("slide-id-invalid", "case-invalid")
    assert lab.store.kept == {}


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.049, 5.1, float("nan"), float("inf")])
def test_an_implausible_scale_is_refused(lab: GatewayLab, mpp: float):
    with pytest.raises(InvalidInputError) as caught:
        lab.submit(lab.file("a.svs"), mpp=mpp)
    assert caught.value.code == "slide-mpp-implausible"


def test_a_damaged_ledger_costs_one_more_event_of_the_same_id(lab: GatewayLab):
    path = lab.file("a.svs")
    first = lab.submit(path)
    for key in list(lab.store.kept):
        lab.store.kept[key] = b"\xff not json"
    assert lab.submit(path).event_id == first.event_id


def test_names_without_ascii_letters_are_accepted(lab: GatewayLab):
    path = lab.file("Präparat №7 切片.svs")
    lab.submit(path)
    (event,) = lab.bus.scanned
    assert event.key == "Pr_parat_7-4a495109"
    assert event.data.uri == path.as_uri()
    assert event.data.uri.isascii()


def test_a_file_whose_record_was_pruned_is_recognised_and_recorded_again(lab: GatewayLab):
    path = lab.file("a.svs")
    first = lab.submit(path, mark="m")
    del lab.store.kept[f"{keys.SEEN}m"]
    again = lab.submit(path, mark="m")

    assert (again.status, again.event_id) == ("duplicate", first.event_id)
    assert len(lab.bus.scanned) == 1
    assert lab.intake.ledger.seen("m") == ("a", first.event_id)


@pytest.mark.parametrize("left", [None, b"", b'{"uri": 3}', b"\xff"])
def test_an_id_with_an_unreadable_owner_goes_to_nobody_else(lab: GatewayLab, left: bytes | None):
    mine = lab.file("one/a.svs", "mine")
    lab.submit(mine)
    del lab.store.kept[keys.owner_key("a")]
    if left is not None:
        lab.store.kept[keys.owner_key("a")] = left

    assert lab.submit(lab.file("two/a.svs", "other")).status == "dead-letter"
    assert lab.submit(lab.file("one/a.svs", "a new scan")).status == "rescan"
    assert [event.data.uri for event in lab.bus.scanned] == [mine.as_uri()] * 2
