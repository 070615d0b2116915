"""Where the jobs keep their objects: every key in one place."""

from __future__ import annotations

from dataclasses import dataclass

DRAFT_JSON, DRAFT_TEXT, DRAFT_HTML = "draft.json", "draft.txt", "draft.html"
COPIES = "gateway/copies/"
THUMBNAIL, HEATMAP = "thumbnail.webp", "heatmap.webp"


def scanned_key(slide_id: str) -> str:
    """Return the key of the slide's latest slide.scanned event, which the gateway writes."""
    return f"slides/{slide_id}/scanned.json"


def owner_key(slide_id: str) -> str:
    """Return the key of what the gateway keeps of whose a slide's id is."""
    return f"gateway/owners/{slide_id}"


def taken_key(slide_id: str, event_name: str) -> str:
    """Return the key that says that the tiler has written down an event that the gateway did not announce."""
    return f"gateway/by-hand/{slide_id}/{event_name}.json"


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


@dataclass(frozen=True)
class ReportOwner:
    """Whose a report is: a slide's, or a case's. Both may have one id; their keys never meet."""

    id: str
    is_case: bool = False

    def __str__(self) -> str:
        return f"the {'case' if self.is_case else 'slide'} {self.id}"

    @property
    def prefix(self) -> str:
        """What the keys of all its reports start with."""
        return f"{'case-reports' if self.is_case else 'reports'}/{self.id}/"

    @property
    def latest(self) -> str:
        """The key of the pointer to its latest report."""
        return f"{self.prefix}latest.json"

    @property
    def shared_prefix(self) -> str:
        """Where earlier versions kept reports of slides and cases alike; draft.json says whose one is."""
        return f"reports/{self.id}/"

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
    return f"gateway/contents/{content_id}/"


def copies_prefix(copy_id: str) -> str:
    """Return what the keys begin with that say of which slides the files of a name are copies."""
    return f"{COPIES}{copy_id}/"


def copy_key(copy_id: str, slide_id: str) -> str:
    """Return the key that says that a file called `copy_id` holds the slide's bytes, and is that slide."""
    return f"{copies_prefix(copy_id)}{slide_id}"
