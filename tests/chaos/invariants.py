"""What must hold for everything a stream leaves behind, whatever was done to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from harness import DRAFT, Remains
from history import violations

from histgen_lib.events import BAG_READY, REPORT_DRAFTED, Event

COMPANIONS = {"draft.json", "draft.txt", "draft.html", "thumbnail.webp", "heatmap.webp", "digests.json"}
_KEYS = re.compile(
    r"slides/[^/]+/scanned\.json"
    r"|bags/[^/]+/[0-9a-f]{64}\.(parquet|scan\.json|thumbnail\.webp|digests\.json)"
    r"|(case-)?reports/[^/]+/([0-9a-f]{64}/(draft\.(json|txt|html)|(thumbnail|heatmap)\.webp|digests\.json)|latest\.json|latest\.history/\d+\.json)"
    r"|gateway/(by-hand|owners|contents|seen)/.+"
    r"|audit/\d{12}\.json"
    r"|verify/(last\.json|damaged/.+)"
    r"|dead-letter(-replayed)?/[A-Za-z0-9._-]+\.json"
    r"|cases/[^/]+/[^/]+(\.history/\d+)?\.json"
    r"|attempts/(tiler|reporter)/[A-Za-z0-9._-]+/\d+"
)


def check(
    remains: Remains, events: Iterable[Event], undisturbed: Mapping[str, str], *, orphans: int = 0
) -> None:
    """Check that each event ended once, with the bytes of an undisturbed run, and nothing else is left.

    `orphans`: how many attempt markers of finished events may be left; each kill of a worker can leave one,
    which has no effect.
    """
    check_ends(remains, events)
    check_whole(remains)
    check_nothing_else(remains, orphans)
    check_committed(remains)
    assert remains.results() == dict(undisturbed)


def check_ends(remains: Remains, events: Iterable[Event]) -> None:
    """Check that every slide has exactly one report or one dead letter."""
    drafts = Counter(found["slide"] for found in map(DRAFT.fullmatch, remains.objects) if found)
    letters = Counter(letter["event"]["data"]["slide_id"] for letter in remains.letters.values())
    assert drafts + letters == Counter({event.key for event in events})


def check_whole(remains: Remains) -> None:
    """Check that reports are complete, pointed to, and announced under one id each.

    Check the history of the run, too.
    """
    announced_ids: dict[str, set[str]] = {}
    for event in remains.history.events(REPORT_DRAFTED):
        announced_ids.setdefault(event.data.draft_key, set()).add(event.id)
    for found in filter(None, map(DRAFT.fullmatch, remains.objects)):
        folder = f"reports/{found['slide']}/{found['digest']}/"
        names = {key.removeprefix(folder) for key in remains.objects if key.startswith(folder)}
        assert names == COMPANIONS, (folder, names)
        assert f"reports/{found['slide']}/{remains.pointers[found['slide']]}/draft.json" in remains.objects
        assert len(announced_ids.get(found.string, ())) == 1, found.string
    check_history(remains)


def check_nothing_else(remains: Remains, orphans: int) -> None:
    """Check that there are no other objects, and attempts are left only of events that were given up."""
    assert [key for key in remains.objects if not _KEYS.fullmatch(key)] == []
    given_up = {PurePath(key).stem for key in remains.objects if key.startswith("dead-letter")}
    attempts = [key for key in remains.objects if key.startswith("attempts/")]
    left = [key for key in attempts if key.split("/")[2] not in given_up]
    assert len(left) <= orphans, left


def check_committed(remains: Remains) -> None:
    """Check that nothing would be delivered again."""
    assert set(remains.undone.values()) == {0}, remains.undone


def check_history(remains: Remains) -> None:
    """Check that history and watched offsets show no broken promise."""
    broken = violations(remains.history, remains.acknowledged)
    assert not broken, f"{len(broken)} broken promises, the first: {broken[:5]}"
    assert not remains.passed, remains.passed[:5]


def done_again(remains: Remains) -> int:
    """Count repeated announcements of finished jobs: harmless, but wasted work."""
    counts = [
        Counter(event.id for event in remains.history.events(topic)) for topic in (BAG_READY, REPORT_DRAFTED)
    ]
    return sum(count - 1 for counter in counts for count in counter.values())
