"""The events of the stream: CloudEvents 1.0 with typed data, and nothing in them but what is named here.

Reading keeps only known fields, so whatever else a producer put into an event (a patient's name, a label's text)
ends at the first consumer. Data carries ids, URIs, sizes, digests and versions.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, cast, get_args, get_type_hints

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json, sha256_hex

SCHEMA_VERSION = 1
"""Rides on every event as `ce_schemaversion`; a consumer dead-letters a version it does not know."""

SLIDE_SCANNED, BAG_READY = "slide.scanned", "bag.ready"
REPORT_DRAFTED, REPORT_SIGNED = "report.drafted", "report.signed"
DEAD_LETTER = "dead-letter"
TOPICS = (SLIDE_SCANNED, BAG_READY, REPORT_DRAFTED, REPORT_SIGNED, DEAD_LETTER)
"""Topics are called as the type of the events they carry."""


@dataclass(frozen=True)
class SlideScanned:
    """A slide's file is complete. `content_id`: SHA-256 over its bytes; `mpp`: µm per level-0 px, if stated.

    A slide of a case names the case and all of its slides: they get one report together.
    """

    type: ClassVar[str] = SLIDE_SCANNED
    slide_id: str
    uri: str
    content_id: str
    size_bytes: int
    mpp: float | None = None
    case_id: str | None = None
    case_slides: tuple[str, ...] = ()


@dataclass(frozen=True)
class BagReady:
    """A slide's features lie at `bag_key` in the object store, what else is known of the scan at `scan_key`."""

    type: ClassVar[str] = BAG_READY
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


@dataclass(frozen=True)
class ReportDrafted:
    """A draft lies at `draft_key`; `slide_id` is the case's id for the one report of a case."""

    type: ClassVar[str] = REPORT_DRAFTED
    slide_id: str
    report_digest: str
    draft_key: str
    abstained: bool
    case_id: str | None = None


@dataclass(frozen=True)
class DeadLettered:
    """An event that could not be worked on; the whole of it, with the reason, lies at `key`."""

    type: ClassVar[str] = DEAD_LETTER
    slide_id: str
    event_id: str
    event_type: str
    code: str
    key: str


Data = SlideScanned | BagReady | ReportDrafted | DeadLettered
_KINDS: dict[str, type[Any]] = {kind.type: kind for kind in get_args(Data)}


@dataclass(frozen=True)
class Event:
    """One CloudEvent. `id` is the same whenever the same thing is said again, so duplicates can be told.

    `time`: when it was published first, UTC. `scanned_at`: the time of the slide.scanned event it follows from.
    `traceparent`: W3C trace context, one trace from scan to draft. `replay`: how often a person sent it again.
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
        """What the topic is partitioned by: all events of a slide stay in order."""
        return self.data.slide_id

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits of the trace."""
        return self.traceparent.split("-")[1]

    @classmethod
    def first(cls, data: Data, *, source: str, now: datetime, identity: str) -> Self:
        """Make an event that starts a trace; `identity` names what happened, whoever tells it and when."""
        made = sha256_hex(f"{data.type}|{identity}".encode())[:32]
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        return cls(made, source, data, time=now, scanned_at=now, traceparent=trace)

    def then(self, data: Data, *, source: str, now: datetime, identity: str = "") -> Event:
        """Make the event that follows from this one: same trace, an id that follows from this one's."""
        made = sha256_hex(f"{data.type}|{self.id}|{identity}".encode())[:32]
        _, trace, _, flags = self.traceparent.split("-")
        child = f"00-{trace}-{secrets.token_hex(8)}-{flags}"
        return Event(made, source, data, time=now, scanned_at=self.scanned_at, traceparent=child)

    def again(self, *, now: datetime) -> Event:
        """Make the event with which a person has a dead letter tried again: a new id, the same each time."""
        made = sha256_hex(f"replay|{self.id}".encode())[:32]
        return replace(self, id=made, time=now, replay=self.replay + 1)

    def headers(self) -> dict[str, str]:
        """Headers of CloudEvents' binary mode (Kafka protocol binding 1.0.2)."""
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
        """The data as canonical JSON."""
        return canonical_json(asdict(self.data))

    @classmethod
    def read(cls, headers: Mapping[str, str], body: bytes) -> Event:
        """Read what `headers` and `body` wrote; unknown headers and fields are left behind.

        Raises InvalidInputError: "event-unreadable", "event-version", "event-type". No message repeats a value.
        """
        version = headers.get("ce_schemaversion", str(SCHEMA_VERSION))
        if version != str(SCHEMA_VERSION):
            raise _refused("event-version", "It has a schema version that this software does not know.")
        kind = _KINDS.get(headers.get("ce_type", ""))
        if kind is None:
            raise _refused("event-type", "It has no type, or one that this software does not know.")
        try:
            time = datetime.fromisoformat(headers["ce_time"])
            return cls(
                id=_token(headers["ce_id"]),
                source=headers["ce_source"],
                data=_data(kind, json.loads(body)),
                time=time,
                scanned_at=datetime.fromisoformat(headers.get("ce_scannedat", headers["ce_time"])),
                traceparent=_traceparent(headers),
                replay=int(headers.get("ce_replay", "0")),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise _refused(
                "event-unreadable", f"It lacks a part, or a part is malformed ({_where(error)})."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The whole event as JSON values, for a dead letter."""
        return {"headers": self.headers(), "data": asdict(self.data)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Event:
        """Read what `to_json` gave. Raises as `read`."""
        try:
            return cls.read(dict(value["headers"]), json.dumps(value["data"]).encode())
        except (KeyError, TypeError) as error:
            raise _refused("event-unreadable", f"It lacks a part ({_where(error)}).") from None


def _data(kind: type[Any], value: Any) -> Data:
    if not isinstance(value, dict):
        raise TypeError("data")
    hints = get_type_hints(kind)
    known = {f.name: _typed(f.name, value[f.name], hints[f.name]) for f in fields(kind) if f.name in value}
    try:
        return cast(Data, kind(**known))
    except TypeError:
        raise KeyError(next(f.name for f in fields(kind) if f.name not in known)) from None


def _typed(name: str, value: Any, hint: Any) -> Any:
    if hint == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise TypeError(name)
    allowed = get_args(hint) or (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in allowed:
        raise TypeError(name)
    return value


def _token(value: str) -> str:
    """An id becomes part of an object key: nothing but letters, digits, dots, dashes and underscores."""
    if (
        not 0 < len(value) <= 128
        or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in value)
        or ".." in value
    ):
        raise ValueError("ce_id")
    return value


def _traceparent(headers: Mapping[str, str]) -> str:
    value = headers.get("ce_traceparent") or headers.get("traceparent") or ""
    version, trace, span, flags = value.split("-")
    if (len(version), len(trace), len(span), len(flags)) != (2, 32, 16, 2) or not set(trace + span) <= set(
        "0123456789abcdef"
    ):
        raise ValueError("traceparent")
    return value


def _where(error: Exception) -> str:
    """Name the field at fault; never its value."""
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "its data is not JSON"
    name = str(error.args[0]) if error.args else ""
    known = {f.name for kind in _KINDS.values() for f in fields(kind)} | {
        "ce_id",
        "ce_time",
        "ce_source",
        "headers",
        "data",
    }
    return name if name in known else type(error).__name__


def _refused(code: str, message: str) -> InvalidInputError:
    return InvalidInputError(
        code,
        f"An event cannot be used. {message}",
        hint="Send it as docs/events.md describes, then it is worked on.",
    )
