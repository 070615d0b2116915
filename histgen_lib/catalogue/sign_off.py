"""Signing and withdrawing: the record first, then the event. Saying the same again changes nothing.

Who did it goes to the audit log before it is done, with the digest of what was said, and no text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.audit import Action, Audit
from histgen_lib.catalogue.cited import drafts_citing
from histgen_lib.catalogue.keys import ReportOwner, case_prefix, scanned_key, withdrawn_key
from histgen_lib.catalogue.outbox import announce
from histgen_lib.catalogue.pointers import BY_REPORT, latest_of, named_drafts
from histgen_lib.catalogue.registry import check_name, covering_owner
from histgen_lib.catalogue.signing import Signature, Withdrawal, is_withdrawn, signature_of
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import CaseWithdrawn, Data, Event, ReportSigned
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.storage import JSON, ObjectStore, check_key

SOURCE = "/histgen/gateway"
MOST_TEXT_BYTES = 64 << 10
"""Of a signed report; a long synoptic report has 4 KiB."""


@dataclass(frozen=True)
class Wish:
    """What a person wants to sign. `digest`: of the draft that they saw; "" for the latest.

    `text`: as it is to stand; None for the draft's own. `reinstate`: end a withdrawal. `by`: who they are.
    Otherwise as `Signature`.
    """

    owner: ReportOwner
    by: str
    digest: str = ""
    text: str | None = None
    stain: str = ""
    site: str = ""
    synthetic: bool = False
    reinstate: bool = False


@dataclass(frozen=True)
class Withdrawn:
    """What became of a withdrawal. `citing`: reports of others that show this case, by owner and digest."""

    withdrawal: Withdrawal
    citing: list[tuple[ReportOwner, str]]


@dataclass(frozen=True)
class SignOff:
    """Signs and withdraws in this store, and tells this broker. `now`: UTC."""

    store: ObjectStore
    publisher: Publisher
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def sign(self, wish: Wish) -> Signature:
        """Sign a report; return the signature in force, an earlier one if the same was said before.

        Raises InvalidInputError: "case-unknown", "slide-of-case", "case-undrafted", "case-withdrawn", and as
        `signed_text`; and what store and publisher raise; after a TransientError do it again.
        """
        owner, own = wish.owner, None if wish.text is None else signed_text(wish.text)
        digest, drafted = self._drafted(wish)
        ends = self._ends_withdrawal(wish)
        said = Signature(
            owner,
            digest,
            signed_text(drafted) if own is None else own,
            wish.by,
            self.now(),
            wish.stain,
            wish.site,
            wish.synthetic,
        )
        known = signature_of(self.store, owner, digest)
        signature = known if known and known.said == said.said else said
        data = ReportSigned(owner.id, digest, signature.key, owner.id if owner.is_case else None)
        if signature is said:
            self._log("signed", wish.by, owner, report=digest, said=said.said)
        self._announce(
            data,
            f"{signature.said}|{signature.at.isoformat()}",
            signature,
            new=signature is said,
            ends=withdrawn_key(owner) if ends else "",
        )
        return signature

    def withdraw(self, owner: ReportOwner, *, by: str, reason: str = "") -> Withdrawn:
        """Withdraw all reports of a slide or case; the first withdrawal's record stays.

        Raises InvalidInputError: "case-unknown", "slide-of-case"; and what store and publisher raise; then do
        it again.
        """
        self._check_known(owner)
        self._check_alone(owner)
        key = withdrawn_key(owner)
        known = Withdrawal.read(self.store.find(key), key)
        withdrawal = known or Withdrawal(owner, by, self.now(), reason)
        data = CaseWithdrawn(owner.id, key, owner.id if owner.is_case else None)
        if known is None:
            self._log("withdrawn", by, owner)
        self._announce(data, withdrawal.at.isoformat(), withdrawal, new=known is None)
        return Withdrawn(withdrawal, drafts_citing(self.store, owner))

    def _drafted(self, wish: Wish) -> tuple[str, str]:
        """Return digest and text of the draft that is to be signed."""
        owner = wish.owner
        self._check_known(owner)
        if not wish.reinstate:
            self._check_alone(owner)
        digest = wish.digest or latest_of(self.store, owner)
        for key in named_drafts(owner, {BY_REPORT: digest}):
            if draft := readable_draft(self.store.find(key) or b""):
                return str(digest), draft.text
        raise InvalidInputError(
            "case-undrafted",
            f"There is no such report of {owner} yet.",
            hint="Wait until it is drafted: `histgen status` shows where it stands.",
        )

    def _ends_withdrawal(self, wish: Wish) -> bool:
        """Return whether there is a withdrawal, which the wish ends."""
        owner = wish.owner
        if not is_withdrawn(self.store, owner):
            return False
        if not wish.reinstate:
            raise InvalidInputError(
                "case-withdrawn",
                f"The reports of {owner} were withdrawn, and are not to be found by anybody.",
                hint="If that is to end, say so: `histgen sign --reinstate`.",
            )
        self._log("reinstated", wish.by, owner)
        return True

    def _check_known(self, owner: ReportOwner) -> None:
        try:
            check_name(owner.id)
            check_key(owner.latest)
        except InvalidInputError:
            raise _unknown(owner) from None
        if owner.is_case:
            known = any(self.store.list(case_prefix(owner.id)))
        else:
            known = self.store.head(scanned_key(owner.id)) is not None
        if not known and latest_of(self.store, owner) is None:
            raise _unknown(owner)

    def _check_alone(self, owner: ReportOwner) -> None:
        """Refuse a slide that its case's report covers: what is said of the slide alone has no effect."""
        covering = None if owner.is_case else covering_owner(self.store, owner.id)
        if covering and covering != owner:
            raise InvalidInputError(
                "slide-of-case",
                f"The report of {owner} is that of {covering}.",
                hint=f"Name the case: `--case {covering.id}`, or case_id in a request.",
            )

    def _log(self, action: Action, by: str, owner: ReportOwner, **what: str) -> None:
        whose = {"case_id" if owner.is_case else "slide_id": owner.id}
        Audit(self.store, now=self.now).append(action, by, {**whose, **what})

    def _announce(
        self, data: Data, identity: str, record: Signature | Withdrawal, *, new: bool, ends: str = ""
    ) -> None:
        """Write a record that is new, remove that of the withdrawal that it `ends`, and publish the event."""
        event = Event.first(data, source=SOURCE, now=self.now(), identity=f"{record.key}|{identity}")

        def write() -> None:
            if new:
                self.store.put(record.key, record.to_bytes(), if_absent=False, content_type=JSON)
            if ends:
                self.store.delete(ends)

        announce(self.store, self.publisher, event, write)


def signed_text(text: str) -> str:
    """Return a text as it is signed: without blanks around it, each line on its own as on Unix.

    Raises InvalidInputError: "signed-text-unreadable", "signed-text-empty", "signed-text-too-long".
    """
    text = "\n".join(text.strip().splitlines())
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text if sign not in "\n\t"):
        raise unreadable_text("The text to be signed")
    if not any(sign.isalnum() for sign in text):
        raise InvalidInputError(
            "signed-text-empty", "The text to be signed has no words.", hint="Write it, or leave it out."
        )
    if len(text.encode()) > MOST_TEXT_BYTES:
        raise InvalidInputError(
            "signed-text-too-long",
            f"The text to be signed has more than {MOST_TEXT_BYTES >> 10} KiB.",
            hint="Sign the report alone, not what belongs to it.",
        )
    return text


def unreadable_text(what: str) -> InvalidInputError:
    """Refuse what people cannot read: a file that holds no text, or one with control characters."""
    return InvalidInputError(
        "signed-text-unreadable",
        f"{what} cannot be read as plain text.",
        hint="Save it as plain text in UTF-8, without control characters.",
    )


def _unknown(owner: ReportOwner) -> InvalidInputError:
    return InvalidInputError(
        "case-unknown", f"Nothing is known of {owner}.", hint="Check its id; `histgen status` lists slides."
    )
