"""Where the jobs keep their objects: every key in one place."""

from __future__ import annotations

from dataclasses import dataclass

DRAFT_JSON, DRAFT_TEXT, DRAFT_HTML = "draft.json", "draft.txt", "draft.html"
DIGESTS = "digests.json"
"""Beside the files of a report: what each of them holds, see `catalogue/digests.py`."""
COPIES, OWNERS, CONTENTS = "gateway/copies/", "gateway/owners/", "gateway/contents/"
BY_HAND, SEEN = "gateway/by-hand/", "gateway/seen/"
REPORTS, CASE_REPORTS = "reports/", "case-reports/"
SLIDES, SCANNED = "slides/", "/scanned.json"
ATTEMPTS = "attempts/"
_CASE = "case/"
THUMBNAIL, HEATMAP = "thumbnail.webp", "heatmap.webp"


def scanned_key(slide_id: str) -> str:
    """Return the key of the slide's latest slide.scanned event, which the gateway writes."""
    return f"slides/{slide_id}/scanned.json"


def owner_key(slide_id: str) -> str:
    """Return the key of what the gateway keeps of whose a slide's id is."""
    return f"{OWNERS}{slide_id}"


def taken_prefix(slide_id: str) -> str:
    """Return what the keys of a slide's events start with that the gateway did not announce."""
    return f"{BY_HAND}{slide_id}/"


def taken_key(slide_id: str, event_name: str) -> str:
    """Return the key that says that the tiler has written down an event that the gateway did not announce."""
    return f"{taken_prefix(slide_id)}{event_name}.json"


def bags_prefix(slide_id: str) -> str:
    """Return what the keys of all bags of a slide start with."""
    return f"bags/{slide_id}/"


def bag_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of a bag."""
    return f"bags/{slide_id}/{bag_digest}.parquet"


def scan_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of the scan record beside a bag; it is written last and says that both are there."""
    return f"bags/{slide_id}/{bag_digest}.scan.json"


def bag_thumbnail_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of the thumbnail beside a bag."""
    return f"bags/{slide_id}/{bag_digest}.thumbnail.webp"


def bag_digests_key(slide_id: str, bag_digest: str) -> str:
    """Return the key of what a bag, its thumbnail and its scan record hold, see `catalogue/digests.py`."""
    return f"bags/{slide_id}/{bag_digest}.digests.json"


def bag_keys(slide_id: str, bag_digest: str) -> list[str]:
    """Return the keys of a bag and of what belongs to it, the scan record last."""
    made = (bag_key, bag_thumbnail_key, scan_key)
    return [key(slide_id, bag_digest) for key in made]


@dataclass(frozen=True)
class ReportOwner:
    """Whose a report is: a slide's, or a case's. Both may have one id; their keys never meet."""

    id: str
    is_case: bool = False

    def __str__(self) -> str:
        return f"the {'case' if self.is_case else 'slide'} {self.id}"

    @classmethod
    def named(cls, name: str) -> ReportOwner:
        """Return whose `name` it is."""
        return cls(name.removeprefix(_CASE), is_case=name.startswith(_CASE))

    @property
    def name(self) -> str:
        """One text that tells it from all others: a slide's id, which has no slash, or `case/<id>`."""
        return f"{_CASE if self.is_case else ''}{self.id}"

    @property
    def prefix(self) -> str:
        """What the keys of all its reports start with."""
        return f"{CASE_REPORTS if self.is_case else REPORTS}{self.id}/"

    @property
    def latest(self) -> str:
        """The key of the pointer to its latest report."""
        return f"{self.prefix}latest.json"

    @property
    def shared_prefix(self) -> str:
        """Where earlier versions kept reports of slides and cases alike; draft.json says whose one is."""
        return f"{REPORTS}{self.id}/"

    def report(self, report_digest: str, name: str) -> str:
        """Return the key of one file of a report."""
        return f"{self.prefix}{report_digest}/{name}"


def case_prefix(case_id: str) -> str:
    """Return what the keys of all pointers of a case start with."""
    return f"cases/{case_id}/"


def case_slide_key(case_id: str, slide_id: str) -> str:
    """Return the key of the pointer to the bag with which a slide takes part in its case."""
    return f"cases/{case_id}/{slide_id}.json"


def contents_prefix(content_id: str) -> str:
    """Say under which keys the events lie that the gateway announced with these bytes."""
    return f"{CONTENTS}{content_id}/"


def copies_prefix(copy_id: str) -> str:
    """Return what the keys begin with that say of which slides the files of a name are copies."""
    return f"{COPIES}{copy_id}/"


def copy_key(copy_id: str, slide_id: str) -> str:
    """Return the key that says that a file called `copy_id` holds the slide's bytes, and is that slide."""
    return f"{copies_prefix(copy_id)}{slide_id}"
