"""The events of the stream: CloudEvents 1.0 with typed data, holding only the fields named here.

Reading keeps only known fields, so anything else that a producer put into an event (a patient's name, a
label's text) ends at the first consumer. Data carries ids, URIs, sizes, digests and versions. See
docs/events.md.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, cast, get_args, get_type_hints

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json, each_name_once, json_digest, sha256_hex

SCHEMA_VERSION = 1
"""Sent with every event as `ce_schemaversion`; a consumer dead-letters a version it does not know."""

SLIDE_SCANNED, BAG_READY = "slide.scanned", "bag.ready"
REPORT_DRAFTED, REPORT_SIGNED = "report.drafted", "report.signed"
CASE_WITHDRAWN = "case.withdrawn"
DEAD_LETTER = "dead-letter"
TOPICS = (SLIDE_SCANNED, BAG_READY, REPORT_DRAFTED, REPORT_SIGNED, CASE_WITHDRAWN, DEAD_LETTER)
"""A topic has the name of the type of the events it carries."""


@dataclass(frozen=True)
class SlideScanned:
    """A slide's file is complete. `content_id`: SHA-256 over its bytes; `mpp`: µm per level-0 px, if stated.

    A slide of a case names the case and all of its slides, which get one report together. `turn`: how often
    the slide has been announced differently before; a later turn takes precedence over any earlier one.
    """

    type: ClassVar[str] = SLIDE_SCANNED
    follows: ClassVar[str | None] = None
    slide_id: str
    uri: str
    content_id: str
    size_bytes: int
    mpp: float | None = None
    case_id: str | None = None
    case_slides: tuple[str, ...] = ()
    turn: int = 0


@dataclass(frozen=True)
class BagReady:
    """A slide's features are in the object store at `bag_key`, its scan record at `scan_key`."""

    type: ClassVar[str] = BAG_READY
    follows: ClassVar[str | None] = SLIDE_SCANNED
    slide_id: str
    uri: str
    content_id: str
    bag_key: str
    scan_key: str
    bag_digest: str
    bag_bytes: int
    tiles: int
    mpp: float | None = None
    case_id: str | None = None
    case_slides: tuple[str, ...] = ()
    turn: int = 0


@dataclass(frozen=True)
class ReportDrafted:
    """A draft is stored at `draft_key`; `slide_id` is the case's id for the one report of a case."""

    type: ClassVar[str] = REPORT_DRAFTED
    follows: ClassVar[str | None] = BAG_READY
    slide_id: str
    report_digest: str
    draft_key: str
    abstained: bool
    case_id: str | None = None


@dataclass(frozen=True)
class ReportSigned:
    """A person has signed a report: the draft with this digest, as it was or with the text at `signed_key`.

    `slide_id` is the case's id for the one report of a case.
    """

    type: ClassVar[str] = REPORT_SIGNED
    follows: ClassVar[str | None] = None
    slide_id: str
    report_digest: str
    signed_key: str
    case_id: str | None = None


@dataclass(frozen=True)
class CaseWithdrawn:
    """A slide's or a case's report is not to be found by anybody any more; `slide_id` as in ReportSigned."""

    type: ClassVar[str] = CASE_WITHDRAWN
    follows: ClassVar[str | None] = None
    slide_id: str
    withdrawn_key: str
    case_id: str | None = None


@dataclass(frozen=True)
class DeadLettered:
    """An event could not be processed; `event_source` and `event_id` name it, and `key` holds all of it."""

    type: ClassVar[str] = DEAD_LETTER
    follows: ClassVar[str | None] = None
    slide_id: str
    event_id: str
    event_type: str
    code: str
    key: str
    event_source: str | None = None


Data = SlideScanned | BagReady | ReportDrafted | ReportSigned | CaseWithdrawn | DeadLettered
"""Each says with `type` what it is, and with `follows` the type of the event that it follows from.

None: it starts a trace, or may follow from any.
"""
_KINDS: dict[str, type[Any]] = {kind.type: kind for kind in get_args(Data)}
_HINTS = {kind: get_type_hints(kind) for kind in get_args(Data)}

_HINT = "Send it as docs/events.md describes."
_HEADERS = (
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_time",
    "ce_schemaversion",
    "ce_scannedat",
    "ce_replay",
    "ce_traceparent",
    "traceparent",
)
_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")  # becomes part of an object's key
_SOURCE = re.compile(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{1,256}")  # a URI reference
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_COUNT = re.compile(r"[0-9]{1,6}")
_OURS = re.compile(r"/histgen/[a-z]{1,32}")
_MADE = re.compile(r"[0-9a-f]{32}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,4096}")
_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_NAME_BYTES = 200  # with a suffix it still is a file's name


@dataclass(frozen=True)
class Event:
    """One CloudEvent. `id` is the same whenever its `source` reports the same thing again; see `name`.

    `time`: when it was first published, UTC. `scanned_at`: the time of the slide.scanned event it follows
    from. `traceparent`: W3C trace context, one trace from scan to draft. `replay`: how often a person has
    replayed it.
    """

    id: str
    source: str
    data: Data
    time: datetime
    scanned_at: datetime
    traceparent: str
    replay: int = 0

    @property
    def type(self) -> str:
        """The event's type, which is also its topic."""
        return self.data.type

    @property
    def key(self) -> str:
        """The record's key on the topic: all events of a slide stay in order; a case has its own."""
        data = self.data
        if isinstance(data, ReportDrafted | ReportSigned | CaseWithdrawn) and data.case_id is not None:
            return f"case/{data.case_id}"  # cannot be a slide's id
        return data.slide_id

    @property
    def name(self) -> str:
        """The event's unique name, which is part of objects' keys.

        For an event of ours the id alone, which is a digest of what happened. Ids of other senders may be
        anything ("17" from two scanners, or twice from one), so source and data are part of the name.
        """
        return self.id if self.is_ours else self.full_name

    @property
    def is_ours(self) -> bool:
        """Whether one of our services published it."""
        return bool(_OURS.fullmatch(self.source) and _MADE.fullmatch(self.id))

    @property
    def full_name(self) -> str:
        """The name by source, id and data together, for any sender."""
        values = ((f, getattr(self.data, f.name)) for f in fields(self.data))
        data = {f.name: value for f, value in values if value != f.default}
        return f"{self.id}.{json_digest([self.source, self.id, self.type, data])[:32]}"

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits of the trace."""
        return self.traceparent.split("-")[1]

    @classmethod
    def first(cls, data: Data, *, source: str, now: datetime, identity: str) -> Self:
        """Make an event that starts a trace; `identity` names what happened, whoever reports it and when."""
        event_id = sha256_hex(f"{data.type}|{identity}".encode())[:32]
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        return cls(event_id, source, data, time=now, scanned_at=now, traceparent=trace)

    def then(self, data: Data, *, source: str, now: datetime, identity: str = "") -> Event:
        """Make the event that follows from this one: the same trace, an id derived from this one's."""
        event_id = following_id(self.name, data.type, identity)
        _, trace, _, flags = self.traceparent.split("-")
        child = f"00-{trace}-{secrets.token_hex(8)}-{flags}"
        return Event(event_id, source, data, time=now, scanned_at=self.scanned_at, traceparent=child)

    def again(self, *, now: datetime) -> Event:
        """Make the event that replays this one: its id is new, but the same each time it is made."""
        return replace(self, id=replay_id(self.name), time=now, replay=self.replay + 1)

    def headers(self) -> dict[str, str]:
        """Return the headers of CloudEvents' binary mode (Kafka protocol binding 1.0.2)."""
        return {
            "ce_specversion": "1.0",
            "ce_id": self.id,
            "ce_type": self.type,
            "ce_source": self.source,
            "ce_subject": self.key,
            "ce_time": self.time.astimezone(UTC).isoformat(),
            "ce_schemaversion": str(SCHEMA_VERSION),
            "ce_scannedat": self.scanned_at.astimezone(UTC).isoformat(),
            "ce_replay": str(self.replay),
            "ce_traceparent": self.traceparent,
            "traceparent": self.traceparent,
            "content-type": "application/json",
        }

    def body(self) -> bytes:
        """Return the data as canonical JSON."""
        return canonical_json(asdict(self.data))

    @classmethod
    def read(cls, headers: Mapping[str, str], body: bytes) -> Event:
        """Read what `headers` and `body` returned; unknown headers and fields are dropped.

        Raises InvalidInputError: "event-unreadable", "event-version", "event-type". Messages repeat no value.
        """
        known = {name: headers[name] for name in _HEADERS if isinstance(headers.get(name), str)}
        if known.get("ce_schemaversion", str(SCHEMA_VERSION)) != str(SCHEMA_VERSION):
            raise InvalidInputError(
                "event-version",
                "An event has a schema version that this software does not know.",
                hint=_HINT,
            )
        kind = _KINDS.get(known.get("ce_type", ""))
        if kind is None:
            raise InvalidInputError(
                "event-type",
                "An event has no type, or one that this software does not know.",
                hint=_HINT,
            )
        try:
            return cls(**_envelope(known), data=_data(kind, _json(body)))
        except _UnusableError as error:
            raise InvalidInputError(
                "event-unreadable",
                f"A part of an event is missing or malformed ({error}).",
                hint=_HINT,
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the whole event as JSON values, for a dead letter."""
        return {"headers": self.headers(), "data": asdict(self.data)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Event:
        """Read what `to_json` returned. Raises as `read`."""
        headers = value.get("headers") if isinstance(value, Mapping) else None
        known = headers if isinstance(headers, Mapping) else {}
        return cls.read(known, json.dumps(value.get("data") if known else None).encode())


def following_id(name: str, kind: str, identity: str = "") -> str:
    """Return the id of the event of type `kind` that follows the event called `name`; see `Event.then`."""
    return sha256_hex(f"{kind}|{name}|{identity}".encode())[:32]


def following_types(kind: str) -> tuple[str, ...]:
    """Return the types of the events that follow directly from one of type `kind`."""
    return tuple(data.type for data in _KINDS.values() if data.follows == kind)


def following_names(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """Yield type and name of each event that follows from the one of a `name`, directly or not, in order."""
    for later in following_types(kind):
        made = following_id(name, later)
        yield later, made
        yield from following_names(made, later)


def replay_id(name: str) -> str:
    """Return the id of the event that replays the event called `name`; see `Event.again`."""
    return sha256_hex(f"replay|{name}".encode())[:32]


class _UnusableError(Exception):
    """Names the faulty part of an event; never its value."""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number, object_pairs_hook=each_name_once)
    except (ValueError, RecursionError):
        raise _UnusableError("its data is not JSON") from None


def _no_number(name: str) -> None:
    raise ValueError(name)  # Python would accept NaN and Infinity, which are not JSON


def _envelope(headers: Mapping[str, str]) -> dict[str, Any]:
    time = _time(headers, "ce_time")
    return {
        "id": _matching(headers, "ce_id", _ID),
        "source": _matching(headers, "ce_source", _SOURCE),
        "time": time,
        "scanned_at": _time(headers, "ce_scannedat") if "ce_scannedat" in headers else time,
        "traceparent": _matching(
            headers, "ce_traceparent" if "ce_traceparent" in headers else "traceparent", _TRACE
        ),
        "replay": int(_matching({"ce_replay": "0"} | dict(headers), "ce_replay", _COUNT)),
    }


def _matching(headers: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    value = headers.get(name, "")
    if not pattern.fullmatch(value):
        raise _UnusableError(name)
    return value


def _time(headers: Mapping[str, str], name: str) -> datetime:
    try:
        time = datetime.fromisoformat(headers[name])
        if time.tzinfo is None:
            raise ValueError
        return time.astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        raise _UnusableError(name) from None


def _data(kind: type[Any], value: Any) -> Data:
    if not isinstance(value, dict):
        raise _UnusableError("data")
    hints, values = _HINTS[kind], {name: one for name, one in value.items() if one is not None}
    known = {f.name: _typed(f.name, values[f.name], hints[f.name]) for f in fields(kind) if f.name in values}
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in known]
    if missing:
        raise _UnusableError(missing[0])
    return cast(Data, kind(**known))


def _typed(name: str, value: Any, hint: Any) -> Any:
    if hint == tuple[str, ...]:
        if not isinstance(value, list):
            raise _UnusableError(name)
        return tuple(_typed(name, item, str) for item in value)
    allowed = get_args(hint) or (hint,)
    if type(value) is int and float in allowed and abs(value) < 2**53:
        value = float(value)
    if type(value) not in allowed or not _sound(name, value):
        raise _UnusableError(name)
    return value.lower() if name == "content_id" else value  # PowerShell writes digests in upper case


def _sound(name: str, value: Any) -> bool:
    """Whether a value can be written again, and a name can be part of an object's key."""
    if isinstance(value, str):
        named = name in {"slide_id", "case_id", "case_slides"}
        if named and len(value.encode(errors="replace")) > _NAME_BYTES:
            return False
        return bool((_NAME if named else _TEXT).fullmatch(value))
    return not isinstance(value, float) or math.isfinite(value)
