"""What people said about reports is checked, never pruned, and told apart from what it is not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from shelf_lab import ShelfLab, case, slide

from histgen_lib.catalogue.keys import ReportOwner, owner_of, signed_key, withdrawn_key
from histgen_lib.catalogue.pruning import KINDS, prune
from histgen_lib.catalogue.repair import Repair
from histgen_lib.catalogue.signing import (
    Signature,
    Withdrawal,
    is_withdrawn,
    signatures_of,
    withdrawn_owners,
)
from histgen_lib.catalogue.verification import Verification

LATER = datetime(2036, 1, 1, tzinfo=UTC)


@pytest.fixture
def lab() -> ShelfLab:
    """Have a slide and a case called alike signed, and another slide withdrawn."""
    lab = ShelfLab()
    for name in ("case", "A", "B", "W"):
        lab.scan(name)
    lab.draft(slide("case"), "Colon:\n  Of the slide")
    lab.draft(case("case"), "Colon:\n  Of the case", "A", "B")
    lab.sign(slide("case"))
    lab.sign(case("case"))
    lab.withdraw(slide("W"))
    return lab


def damaged(lab: ShelfLab) -> dict[str, str]:
    found = [one for step in Verification(lab.store, anew=True).run() for one in step]
    return {one.key: one.kind for one in found if one.kind in ("signature", "withdrawal")}


def test_a_slide_called_case_and_a_case_are_told_apart(lab: ShelfLab):
    for owner, text in ((slide("case"), "slide"), (case("case"), "case")):
        (signature,) = signatures_of(lab.store, owner)
        assert signature.owner == owner
        assert text in signature.text
        assert owner_of(signature.key) == owner
    assert [owner.name for owner in withdrawn_owners(lab.store)] == ["W"]


def test_a_sound_record_is_no_damage_and_a_damaged_one_is_named(lab: ShelfLab):
    assert damaged(lab) == {}
    (signature,) = signatures_of(lab.store, slide("case"))
    lab.store.objects[signature.key] = lab.store.objects[signature.key].replace(b"Of the", b"Of our")
    lab.store.objects[withdrawn_key(slide("W"))] = b"{"

    assert damaged(lab) == {signature.key: "signature", withdrawn_key(slide("W")): "withdrawal"}
    assert signatures_of(lab.store, slide("case")) == []
    assert is_withdrawn(lab.store, slide("W"))  # whoever cannot read it must not show the case
    said = {one.damage.kind: (one.done, one.hint) for one in Repair(lab.store, None).run()}
    assert said["signature"][0] == said["withdrawal"][0] == ""
    assert "histgen sign" in said["signature"][1]
    assert "histgen withdraw" in said["withdrawal"][1]


def test_nothing_that_a_person_said_is_pruned_nor_the_report_that_was_signed(lab: ShelfLab):
    before = {info.key for info in lab.store.list()}
    (signature,) = signatures_of(lab.store, slide("case"))
    lab.draft(slide("case"), "Colon:\n  A later draft", turn=1)
    gone = {one.key for one in prune(lab.store, None, dict.fromkeys(KINDS, 0.0), now=LATER)}

    assert not [key for key in gone if key.startswith(("signed/", "withdrawn/"))]
    assert not [key for key in gone if signature.report_digest in key]
    assert gone <= before


@pytest.mark.parametrize("owner", [slide("S"), case("S")])
def test_a_record_is_read_as_it_was_written_and_under_its_own_key_only(owner: ReportOwner):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    signature = Signature(owner, "a" * 64, "Text\n- µ", "Dr. A", at, "HE", "Leeds", synthetic=True)
    withdrawal = Withdrawal(owner, "Dr. A", at, "wrong patient")

    assert Signature.read(signature.to_bytes(), signature.key) == signature
    assert Withdrawal.read(withdrawal.to_bytes(), withdrawal.key) == withdrawal
    assert Signature.read(signature.to_bytes(), signed_key(owner, "b" * 64)) is None
    assert Withdrawal.read(withdrawal.to_bytes(), withdrawn_key(slide("T"))) is None
    for data in (None, b"", b"[]", b'{"schema":1}', withdrawal.to_bytes()):
        assert Signature.read(data, signature.key) is None
