"""Where a slide stands, and what is shown of its draft."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.integrity import Damage
from histgen_lib.events import BagReady, Event, SlideScanned
from histgen_lib.reports.renderers import DRAFT_HTML, DRAFT_JSON
from histgen_lib.storage import ObjectInfo, ObjectStore

Where = Literal["scanned", "bagged", "drafted", "dead-letter"]


class DraftPart(TypedDict):
    """One slide that a draft was made from. `mpp`: µm per level-0 px."""

    slide_id: str
    content_id: str
    mpp: float | None


@dataclass(frozen=True)
class DraftFacts:
    """What is shown of a finished draft. `key`: of its draft.json."""

    key: str
    text: str
    abstained: bool
    out_of_distribution: bool
    confidence: float | None
    """None: the model was not calibrated."""
    fields: dict[str, str]
    parts: tuple[DraftPart, ...]
    """The slides that it was made from."""
    slide_id: str = ""
    """What it says it is of: a slide, or with `case_id` a case, whose id this is then."""
    case_id: str | None = None

    @classmethod
    def read(cls, key: str, data: bytes) -> DraftFacts:
        """Take out of a draft.json what is shown; its thousands of probabilities are not kept."""
        draft = json.loads(data)
        parts = draft.get("slides") or [
            {"slide_id": draft["slide_id"], "slide": draft["provenance"]["slide"]}
        ]
        return cls(
            key=key,
            text=draft["text"],
            abstained=draft["abstained"],
            out_of_distribution=draft["out_of_distribution"]["flag"],
            confidence=draft["confidence"],
            fields=draft["fields"],
            parts=tuple(_part(part["slide_id"], part["slide"]) for part in parts),
            slide_id=draft["slide_id"],
            case_id=draft.get("case_id"),
        )

    @property
    def page_key(self) -> str:
        """Key of the page that shows it."""
        return self.key.removesuffix(DRAFT_JSON) + DRAFT_HTML

    @property
    def owner(self) -> keys.ReportOwner:
        """Whose report it says it is."""
        return keys.ReportOwner(self.slide_id, self.case_id is not None)

    def part(self, slide_id: str) -> DraftPart | None:
        """Return what it says of one slide that it was made from; None if it was not."""
        return next((part for part in self.parts if part["slide_id"] == slide_id), None)


def _part(slide_id: str, slide: dict[str, Any]) -> DraftPart:
    return {"slide_id": slide_id, "content_id": slide["content_id"], "mpp": slide["mpp"]}


@dataclass(frozen=True)
class SlideState:
    """Where one slide stands: "scanned" waits for a tiler, "bagged" for a reporter; the others are ends.

    `lacks`: the slides of its case without a bag, for which a slide that has one waits. `copies`: names of
    files with the same bytes, which are the same slide. `damaged`: what is known to be wrong with its
    objects, in words. `event` None: not even that can be read any more.
    """

    slide_id: str
    state: Where
    event: Event | None = None
    draft: DraftFacts | None = None
    letter: DeadLetter | None = None
    lacks: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def with_damage(self, found: Iterable[Damage]) -> SlideState:
        """Add damage to objects that are not listed yet."""
        known = {one.partition(" ")[0] for one in self.damaged}
        more = [str(damage) for damage in found if damage.key not in known]
        return replace(self, damaged=(*self.damaged, *more)) if more else self

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in ("drafted", "dead-letter")

    @property
    def end(self) -> str:
        """Key of the object that it ended with; "" if it has not."""
        return self.draft.key if self.draft else self.letter.key if self.letter else ""

    @property
    def ending(self) -> tuple[str, str, str]:
        """What tells this end from others: a slide sent again may end again, and with the same draft."""
        return self.slide_id, self.event.name if self.event else "", self.end

    @property
    def mates(self) -> frozenset[str]:
        """Ids of the other slides of its case, which get one report with it."""
        data = self.event.data if self.event else None
        slides = data.case_slides if isinstance(data, SlideScanned) and data.case_id else ()
        return frozenset(slides) - {self.slide_id}

    @property
    def scanned_at(self) -> str:
        """When it was announced, in UTC, as text that sorts by time; "" if that is not known."""
        event = self.event or (self.letter and self.letter.event)
        return event.scanned_at.isoformat(timespec="microseconds") if event else ""

    @property
    def uri(self) -> str:
        """Where the slide lies, if that is known."""
        event = self.event or (self.letter and self.letter.event)
        return event.data.uri if event and isinstance(event.data, SlideScanned | BagReady) else ""

    def to_text(self) -> str:
        """Return compact JSON, without the parts of the draft, which are not shown."""
        draft = (
            {name: value for name, value in vars(self.draft).items() if name != "parts"} if self.draft else 0
        )
        value = {
            "slide_id": self.slide_id,
            "state": self.state,
            "event": self.event and self.event.to_json(),
            "draft": draft,
            "letter": self.letter and self.letter.to_bytes().decode(),
            "lacks": self.lacks,
            "copies": self.copies,
            "damaged": self.damaged,
        }
        return json.dumps({name: one for name, one in value.items() if one}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> SlideState:
        """Read what `to_text` returned."""
        value = json.loads(text)
        return cls(
            value["slide_id"],
            value["state"],
            event=Event.from_json(value["event"]) if "event" in value else None,
            draft=DraftFacts(**value["draft"] | {"parts": ()}) if "draft" in value else None,
            letter=DeadLetter.from_bytes(value["letter"].encode()) if "letter" in value else None,
            lacks=tuple(value.get("lacks", ())),
            copies=tuple(value.get("copies", ())),
            damaged=tuple(value.get("damaged", ())),
        )


def objects_of(store: ObjectStore, states: Collection[SlideState]) -> list[ObjectInfo]:
    """Return every object of these slides and of their cases, each once."""
    listed = {info.key: info for prefix in _prefixes(states) for info in store.list(prefix)}
    return [*listed.values(), *(info for key in _single_keys(states) if (info := store.head(key)))]


def attempts_at(store: ObjectStore, event_names: Collection[str]) -> dict[str, int]:
    """Count the unfinished attempts at events, by worker."""
    attempts = (info.key.removeprefix(keys.ATTEMPTS).split("/") for info in store.list(keys.ATTEMPTS))
    return dict(Counter(worker for worker, event_name, *_ in attempts if event_name in event_names))


def _prefixes(states: Collection[SlideState]) -> Iterator[str]:
    events = [state.event.data for state in states if state.event]
    scans = [data for data in events if isinstance(data, SlideScanned)]
    for slide_id in _ids(states):
        yield from (f"{area}{slide_id}/" for area in (keys.SLIDES, keys.BAGS, keys.REPORTS))
    for case_id in sorted({data.case_id for data in scans if data.case_id}):
        yield from (f"{area}{case_id}/" for area in (keys.CASES, keys.CASE_REPORTS))
    yield from (state.draft.key.removesuffix(DRAFT_JSON) for state in states if state.draft)
    yield from sorted({keys.contents_prefix(data.content_id) for data in scans})


def _single_keys(states: Collection[SlideState]) -> Iterator[str]:
    yield from map(keys.owner_key, _ids(states))
    yield from (state.letter.key for state in states if state.letter)


def _ids(states: Iterable[SlideState]) -> list[str]:
    return sorted({state.slide_id for state in states})
