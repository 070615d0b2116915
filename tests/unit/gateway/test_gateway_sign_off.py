"""POST /signatures and /withdrawals: the record first, then the event; who it was; and what is refused."""

from __future__ import annotations

import json

import pytest
from gateway_client import Client, error_of
from gateway_fakes import GatewayLab, context, running
from shelf_lab import ShelfLab, case, slide
from waiting import until

from histgen_lib.catalogue.keys import OUTBOX, signed_key, withdrawn_key
from histgen_lib.catalogue.outbox import announce_left
from histgen_lib.catalogue.signing import Signature, Withdrawal
from histgen_lib.events import CASE_WITHDRAWN, REPORT_SIGNED
from histgen_lib.runtime.stopping import Stop
from services.gateway.reminding import Reminding

TEXT = "Colon, biopsy:\n  Adenoma"


@pytest.fixture
def digest(lab: GatewayLab) -> str:
    """Have a slide and a case drafted; return the digest of the slide's report."""
    drafts = ShelfLab(store=lab.store)
    drafts.scan("S")
    for name in ("A", "B"):
        drafts.scan(name, case_id="C", case_slides=("A", "B"))
    drafts.draft(case("C"), TEXT, "A", "B")
    return drafts.draft(slide("S"), "Colon:\n  Tumour").data.report_digest


def published(lab: GatewayLab, topic: str) -> list[tuple[str, str]]:
    return [(event.key, event.id) for event in lab.bus.published if event.type == topic]


def audited(lab: GatewayLab) -> list[tuple[str, str | None, str | None]]:
    entries = [json.loads(lab.store.get(info.key)) for info in lab.store.list("audit/")]
    whose = [(entry["what"].get("slide_id"), entry["what"].get("case_id")) for entry in entries]
    return [(entry["action"], *ids) for entry, ids in zip(entries, whose, strict=True)]


def test_a_signature_holds_the_text_and_is_announced(client: Client, lab: GatewayLab, digest: str):
    typed = f" {TEXT}\n".replace("\n", "\r\n")
    answer = client.post("/signatures", {"slide_id": "S", "text": typed, "stain": "HE"})
    key = signed_key(slide("S"), digest)

    assert answer.status_code == 200
    assert (answer.json()["owner"], answer.json()["signed_key"]) == ("S", key)
    signature = Signature.read(lab.store.find(key), key)
    assert (signature.text, signature.stain, signature.by) == (TEXT, "HE", "127.0.0.1")
    assert [key for key, _ in published(lab, REPORT_SIGNED)] == ["S"]
    assert audited(lab) == [("signed", "S", None)]
    assert TEXT.encode() not in b"".join(lab.store.get(info.key) for info in lab.store.list("audit/"))
    assert not any(TEXT in str(event.to_json()) for event in lab.bus.published)


def test_the_drafts_own_text_is_signed_if_none_is_given(client: Client, lab: GatewayLab, digest: str):
    client.post("/signatures", {"slide_id": "S"})
    key = signed_key(slide("S"), digest)
    assert Signature.read(lab.store.find(key), key).text == "Colon:\n  Tumour"


def test_saying_the_same_again_changes_nothing_and_a_correction_replaces_it(
    client: Client, lab: GatewayLab, digest: str
):
    first = [client.post("/signatures", {"slide_id": "S", "text": TEXT}).json() for _ in range(2)]
    assert first[0] == first[1]
    (one, other) = published(lab, REPORT_SIGNED)
    assert one == other
    client.post("/signatures", {"slide_id": "S", "text": "Colon:\n  No tumour"})
    assert len({event for _, event in published(lab, REPORT_SIGNED)}) == 2
    assert audited(lab) == [("signed", "S", None)] * 2


def test_a_withdrawal_is_recorded_once_and_announced_each_time(client: Client, lab: GatewayLab, digest: str):
    answers = [
        client.post("/withdrawals", {"case_id": "C", "reason": reason}).json() for reason in ("one", "two")
    ]
    key = withdrawn_key(case("C"))

    assert answers[0] == answers[1] | {"citing": []}
    assert Withdrawal.read(lab.store.find(key), key).reason == "one"
    assert published(lab, CASE_WITHDRAWN) == [published(lab, CASE_WITHDRAWN)[0]] * 2
    assert audited(lab) == [("withdrawn", None, "C")]


def test_a_slide_can_be_withdrawn_before_it_is_drafted(client: Client, lab: GatewayLab):
    ShelfLab(store=lab.store).scan("early")
    assert client.post("/withdrawals", {"slide_id": "early"}).status_code == 200


def test_a_withdrawn_case_is_signed_again_only_with_reinstate(client: Client, lab: GatewayLab, digest: str):
    client.post("/withdrawals", {"slide_id": "S"})
    assert error_of(client.post("/signatures", {"slide_id": "S"})) == (409, "case-withdrawn")
    assert client.post("/signatures", {"slide_id": "S", "reinstate": True}).status_code == 200
    assert lab.store.head(withdrawn_key(slide("S"))) is None
    assert [action for action, *_ in audited(lab)] == ["withdrawn", "reinstated", "signed"]


@pytest.mark.parametrize(
    ("page", "body", "refused"),
    [
        ("/signatures", {"slide_id": "nobody"}, (404, "case-unknown")),
        ("/signatures", {"case_id": "S"}, (404, "case-unknown")),
        ("/signatures", {"slide_id": "S", "report_digest": "0" * 64}, (409, "case-undrafted")),
        ("/signatures", {"slide_id": "S", "text": " \n"}, (422, "signed-text-empty")),
        ("/signatures", {"slide_id": "S", "text": "\u200b-."}, (422, "signed-text-empty")),
        ("/signatures", {"slide_id": "S", "text": "Colon\x00"}, (422, "signed-text-unreadable")),
        ("/signatures", {"slide_id": "S", "text": "\x1b[31mColon"}, (422, "signed-text-unreadable")),
        ("/signatures", {"slide_id": "A"}, (409, "slide-of-case")),
        ("/signatures", {"slide_id": "S", "text": "x" * (65 << 10)}, (413, "signed-text-too-long")),
        ("/signatures", {"slide_id": "S", "text": "x" * (1 << 20)}, (413, "request-too-large")),
        ("/signatures", {"slide_id": "S", "case_id": "C"}, (422, "request-invalid")),
        ("/signatures", {}, (422, "request-invalid")),
        ("/signatures", {"slide_id": "S", "patient": "Jane"}, (422, "request-invalid")),
        ("/signatures", b"{", (400, "request-unreadable")),
        ("/withdrawals", {"slide_id": "nobody"}, (404, "case-unknown")),
        ("/withdrawals", {"slide_id": "S", "reason": "x" * 1001}, (422, "request-invalid")),
        ("/withdrawals", {"slide_id": "A"}, (409, "slide-of-case")),
        ("/withdrawals", {"slide_id": "a/b"}, (404, "case-unknown")),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(client: Client, digest: str, page, body, refused):
    lab = client.lab
    before = {info.key for info in lab.store.list()}
    assert error_of(client.post(page, body)) == refused
    assert {info.key for info in lab.store.list()} == before
    assert not lab.bus.published


def test_an_event_that_could_not_be_published_is_published_later(
    client: Client, lab: GatewayLab, digest: str
):
    lab.bus.away = True
    assert client.post("/withdrawals", {"slide_id": "S"}).status_code == 503
    assert lab.store.head(withdrawn_key(slide("S")))
    lab.bus.away = False
    stop = Stop()
    with running(Reminding(context(stop), lab.store, lab.bus, look_s=0.01, left_s=-60), stop):
        until(lambda: published(lab, CASE_WITHDRAWN), 60, "the event")
        until(lambda: not list(lab.store.list(OUTBOX)), 60, "its note to go")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000], ids=len)
def test_a_damaged_note_is_removed_and_stops_nothing(lab: GatewayLab, data: bytes):
    lab.store.put(f"{OUTBOX}damaged.json", data)
    assert announce_left(lab.store, lab.bus, before=float("inf")) == 0
    assert not list(lab.store.list(OUTBOX))


def test_a_note_that_somebody_may_be_about_to_remove_is_left_alone(lab: GatewayLab, client: Client, digest):
    lab.bus.away = True
    client.post("/withdrawals", {"slide_id": "S"})
    lab.bus.away = False
    assert announce_left(lab.store, lab.bus, before=0.0) == 0
    assert len(list(lab.store.list(OUTBOX))) == 1
