"""Every object key and prefix in the store, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from histgen_lib.events import SlideScanned

ATTEMPTS, AUDIT, BAGS, CASES = "attempts/", "audit/", "bags/", "cases/"
CASE_REPORTS, REPORTS, SLIDES = "case-reports/", "reports/", "slides/"
LETTERS, REPLAYED_LETTERS = "dead-letter/", "dead-letter-replayed/"
CITED = "cited/"
BY_HAND, CONTENTS, COPIES = "gateway/by-hand/", "gateway/contents/", "gateway/copies/"
OUTBOX, OWNERS, SEEN = "gateway/outbox/", "gateway/owners/", "gateway/seen/"
SIGNED, WITHDRAWN = "signed/", "withdrawn/"
PROBE = "gateway/probe"
"""No object: the gateway looks it up to learn whether the store answers."""
DAMAGE_NOTES = "verify/damaged/"
CURSOR, LAST_VERIFICATION = "verify/cursor.json", "verify/last.json"
"""How far a verification has come, and the summary of the last one that came to its end."""

DIGESTS = "digests.json"
"""Beside the files of a report: what each of them holds, see `catalogue/integrity.py`."""
SCAN_RECORD = ".scan.json"
"""What the key of a scan record ends with."""

_CASE, _SCANNED = "case/", "/scanned.json"


def scanned_key(slide_id: str) -> str:
    """Return the key of the slide's latest slide.scanned event."""
    return f"{SLIDES}{slide_id}{_SCANNED}"


def slide_of_scanned(key: str) -> str:
    """Return the id of the slide whose latest event has this key; "" for any other key."""
    return key.removeprefix(SLIDES).removesuffix(_SCANNED) if key.endswith(_SCANNED) else ""


def owner_key(slide_id: str) -> str:
    """Return the key of the record of which slide owns this id."""
    return f"{OWNERS}{slide_id}"


def by_hand_prefix(slide_id: str) -> str:
    """Return the prefix of a slide's events that the gateway did not announce."""
    return f"{BY_HAND}{slide_id}/"


def by_hand_key(slide_id: str, event_name: str) -> str:
    """Return the key under which the tiler records an event that the gateway did not announce."""
    return f"{by_hand_prefix(slide_id)}{event_name}.json"


def contents_prefix(content_id: str) -> str:
    """Return the prefix of the events that were announced with these bytes."""
    return f"{CONTENTS}{content_id}/"


def copies_prefix(copy_id: str) -> str:
    """Return the prefix of the notes that say of which slides files with this name are copies."""
    return f"{COPIES}{copy_id}/"


def copy_key(copy_id: str, slide_id: str) -> str:
    """Return the key of the note that a file called `copy_id` has the slide's bytes, and is that slide."""
    return f"{copies_prefix(copy_id)}{slide_id}"


def bags_prefix(slide_id: str) -> str:
    """Return the prefix of all bags of a slide."""
    return f"{BAGS}{slide_id}/"


def bag_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of a bag."""
    return f"{BAGS}{slide_id}/{bag_digest}.parquet"


def scan_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of the scan record beside a bag. It is written last: where it is, the bag is, too."""
    return f"{BAGS}{slide_id}/{bag_digest}{SCAN_RECORD}"


def bag_thumbnail_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of the thumbnail beside a bag."""
    return f"{BAGS}{slide_id}/{bag_digest}.thumbnail.webp"


def bag_digests_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of the digests of a bag, its thumbnail and its scan record."""
    return f"{BAGS}{slide_id}/{bag_digest}.digests.json"


def bag_keys(slide_id: str, bag_digest: str) -> list[str]:
    """Return the keys of a bag, its thumbnail and its scan record, the scan record last."""
    return [key(slide_id, bag_digest) for key in (bag_key, bag_thumbnail_key, scan_key)]


def case_prefix(case_id: str) -> str:
    """Return the prefix of all pointers of a case."""
    return f"{CASES}{case_id}/"


def case_slide_key(case_id: str, slide_id: str) -> str:
    """Return the key of the pointer to the bag with which a slide takes part in its case."""
    return f"{case_prefix(case_id)}{slide_id}.json"


def letter_key(event_name: str) -> str:
    """Return the key of an event's dead letter."""
    return f"{LETTERS}{event_name}.json"


def letter_name(key: str) -> str:
    """Return the name of the event whose dead letter has this key."""
    return key.removeprefix(LETTERS).removesuffix(".json")


def replayed_key(event_name: str) -> str:
    """Return the key of an event's dead letter once that was replayed."""
    return f"{REPLAYED_LETTERS}{event_name}.json"


def outbox_key(event_name: str) -> str:
    """Return the key of the note of an event that is to be published once its object is there."""
    return f"{OUTBOX}{event_name}.json"


def signed_prefix(owner: ReportOwner) -> str:
    """Return the prefix of an owner's signatures; below that of a slide "case" lie those of cases, too."""
    return f"{SIGNED}{owner.name}/"


def signed_key(owner: ReportOwner, digest: str) -> str:
    """Return the key of the signature of a report."""
    return f"{signed_prefix(owner)}{digest}.json"


def withdrawn_key(owner: ReportOwner) -> str:
    """Return the key of the record that an owner's reports are withdrawn."""
    return f"{WITHDRAWN}{owner.name}.json"


def owner_of(key: str) -> ReportOwner:
    """Return the owner of a signature or a withdrawal, by its key."""
    if key.startswith(WITHDRAWN):
        return ReportOwner.named(key.removeprefix(WITHDRAWN).removesuffix(".json"))
    return ReportOwner.named(key.removeprefix(SIGNED).rpartition("/")[0])


def report_digest(key: str) -> str:
    """Return the digest of the report that an object belongs to, by the object's key."""
    return key.split("/")[2]


@dataclass(frozen=True)
class ReportOwner:
    """The slide or case that a report is about. Both may have one id; their keys never meet."""

    id: str
    is_case: bool = False

    def __str__(self) -> str:
        return f"the {'case' if self.is_case else 'slide'} {self.id}"

    @classmethod
    def of(cls, slide: SlideScanned) -> ReportOwner:
        """Return the owner of the report that covers a slide: its case, if that names slides to wait for."""
        if slide.case_id and slide.case_slides:
            return cls(slide.case_id, is_case=True)
        return cls(slide.slide_id)

    @classmethod
    def named(cls, name: str) -> ReportOwner:
        """Return the owner with this `name`."""
        return cls(name.removeprefix(_CASE), is_case=name.startswith(_CASE))

    @property
    def name(self) -> str:
        """A name that no other owner has: a slide's id, which has no slash, or `case/<id>`."""
        return f"{_CASE if self.is_case else ''}{self.id}"

    @property
    def prefix(self) -> str:
        """The prefix of all its reports."""
        return f"{CASE_REPORTS if self.is_case else REPORTS}{self.id}/"

    @property
    def latest(self) -> str:
        """The key of the pointer to its latest report."""
        return f"{self.prefix}latest.json"

    @property
    def shared_prefix(self) -> str:
        """Where earlier versions kept reports of slides and cases alike; draft.json names the owner."""
        return f"{REPORTS}{self.id}/"

    @property
    def shared_latest(self) -> str:
        """The key of the pointer that earlier versions shared between a slide and a case of one id."""
        return f"{self.shared_prefix}latest.json"

    def report(self, digest: str, name: str) -> str:
        """Return the key of one file of a report."""
        return f"{self.prefix}{digest}/{name}"


def citations_prefix(cited: ReportOwner) -> str:
    """Return the prefix of the notes of the reports that show a case as a similar one."""
    return f"{CITED}{_kind_and_id(cited)}/"


def citation_key(cited: ReportOwner, citing: ReportOwner, digest: str) -> str:
    """Return the key of the note that a report shows a case as a similar one."""
    return f"{citations_prefix(cited)}{_kind_and_id(citing)}/{digest}.json"


def citation_of(key: str) -> tuple[ReportOwner, str]:
    """Return the owner and the digest of the report that a note of a citation is about."""
    kind, owner_id, name = key.split("/")[3:6]
    return ReportOwner(owner_id, is_case=kind == "case"), name.removesuffix(".json")


def _kind_and_id(owner: ReportOwner) -> str:
    return f"{'case' if owner.is_case else 'slide'}/{owner.id}"
