"""The books: whose a slide's id is, and what was announced of it last.

The gateway keeps them of what it announces. A slide whose event somebody published himself is written down by
the tiler, when it takes it, by the same rule: an id belongs to the slide that came first with it.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import asdict, dataclass, replace
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned, recorded_scan
from histgen_lib.files import canonical_json
from histgen_lib.pipeline.keys import contents_prefix, owner_key, scanned_key, taken_key
from histgen_lib.pipeline.made import JSON, read_object
from histgen_lib.storage import ObjectStore

_TURN = "turn"


@dataclass(frozen=True)
class Owner:
    """Whose a slide id is: the URI that came first with it, and the bytes it had then."""

    uri: str
    content_id: str


_ANOTHER = Owner("", "")
"""Of a name that the store does not tell from ours: nobody's URI and bytes."""


def claim(store: ObjectStore, slide_id: str, owner: Owner) -> Owner:
    """Take a slide id, unless someone has it; return whose it is."""
    key = owner_key(slide_id)
    mine = canonical_json({"schema": 1, "slide_id": slide_id, **asdict(owner)})
    if store.put(key, mine, content_type=JSON):
        return owner
    if found := _owner_of(store, slide_id):
        return found
    store.put(key, mine, if_absent=False, content_type=JSON)  # it is damaged
    return owner


def recorded_of(store: ObjectStore, slide_id: str) -> Event | None:
    """Look up the slide.scanned event that was announced of a slide last; None if there is none."""
    return _of(slide_id, read_object(store, scanned_key(slide_id)))


def recorded_in(data: bytes, slide_id: str = "") -> tuple[Event, SlideScanned] | None:
    """Read an event out of the books and what it says, in its turn; None if it is not one of the slide's.

    `slide_id`: "" for any slide's.
    """
    event = _of(slide_id, data) if slide_id else recorded_scan(data)
    if event is None or not isinstance(event.data, SlideScanned):
        return None
    turn = _parsed(data).get(_TURN)
    return event, replace(event.data, turn=turn) if isinstance(turn, int) else event.data


def write_down(store: ObjectStore, event: Event, turn: int) -> None:
    """Write an event down that the broker has; the index by content comes last, as it says "announced"."""
    assert isinstance(event.data, SlideScanned)
    line = _line(event, turn)
    store.put(scanned_key(event.key), line, if_absent=False, content_type=JSON)
    store.put(_noted_key(event), line, content_type=JSON)


def take_in(store: ObjectStore, event: Event) -> SlideScanned:
    """Write down a slide that did not come by the gateway, once; return what is to be done, in its turn.

    An event may name anything: id and bytes are its slide's only once that was read (`keep`). Raises
    InvalidInputError: "slide-id-invalid", "slide-id-taken".
    """
    data, by_hand = event.data, _is_by_hand(event)
    assert isinstance(data, SlideScanned)
    noted = taken_key(event.key, event.name) if by_hand else _noted_key(event)
    if known := recorded_in(read_object(store, noted) or b"", event.key):
        return known[1]
    if by_hand:
        for name in (data.slide_id, data.case_id or data.slide_id, *data.case_slides):
            check_name(name)
    if owner := _owner_of(store, data.slide_id):
        _refuse_other(store, data, owner)
    turn = _turn_of(event, recorded_in(read_object(store, scanned_key(event.key)) or b"", event.key))
    if by_hand and not event.replay:
        line = _line(event, turn)
        store.put(scanned_key(event.key), line, if_absent=False, content_type=JSON)
        store.put(noted, line, content_type=JSON)
    else:  # the gateway writes its own down; of one that is replayed that was done before
        store.put(scanned_key(event.key), _line(event, turn), content_type=JSON)
    return replace(data, turn=turn)


def keep(store: ObjectStore, event: Event, data: SlideScanned) -> None:
    """Have a slide that was read keep its id, and be known by its bytes; `data`: what was read.

    Raises InvalidInputError("slide-id-taken") if another slide has the id.
    """
    _refuse_other(store, data, claim(store, data.slide_id, Owner(data.uri, data.content_id)))
    assert isinstance(event.data, SlideScanned)
    if _is_by_hand(event) and not event.replay and data.content_id == event.data.content_id:
        store.put(_noted_key(event), _line(event, data.turn), content_type=JSON)


def taken(slide_id: str) -> InvalidInputError:
    """Say that an id is another slide's."""
    return InvalidInputError(
        "slide-id-taken",
        f"The slide id {slide_id} belongs to another slide, from another place.",
        hint="Rename the file, or state another slide_id, and send it again. To replace a slide by a new "
        "scan, put the new file where the old one was.",
    )


def _owner_of(store: ObjectStore, slide_id: str) -> Owner | None:
    """Say whose an id is; None if nobody has it, or what is kept of that is damaged."""
    found = _parsed(read_object(store, owner_key(slide_id)))
    if not {"uri", "content_id"} <= set(found):
        return None
    if found.get("slide_id", slide_id) != slide_id:
        return _ANOTHER
    return Owner(str(found["uri"]), str(found["content_id"]))


def _refuse_other(store: ObjectStore, data: SlideScanned, owner: Owner) -> None:
    """Refuse other bytes from another place under an id: two slides must never be mixed."""
    if owner.uri == data.uri or owner.content_id == data.content_id:
        return
    noted = (store.get(info.key) for info in store.list(contents_prefix(data.content_id)))
    if not any(_of(data.slide_id, line) for line in noted):  # bytes that the slide once had, moved
        raise taken(data.slide_id)


def check_name(name: str) -> None:
    """Refuse a name that looks like another one, or that some stores take for another one.

    Raises InvalidInputError("slide-id-invalid").
    """
    plain = name.isprintable() and name == name.strip() and unicodedata.normalize("NFC", name) == name
    if not plain or name.endswith("."):
        raise InvalidInputError(
            "slide-id-invalid",
            "The slide_id cannot be used, or a case's or one of its slides': it could be taken for another.",
            hint="Use no blanks or dots at the end, no invisible signs, and accents as one sign with their "
            "letter (Unicode's form NFC).",
        )


def _turn_of(event: Event, latest: tuple[Event, SlideScanned] | None) -> int:
    """Say in which turn an event is, by what was announced last: of others' each is one of its own."""
    assert isinstance(event.data, SlideScanned)
    given = event.data.turn
    if latest is None:
        return given
    if latest[0].name == event.name or (latest[0].trace_id == event.trace_id and event.replay):
        return max(given, latest[1].turn)
    return max(given, latest[1].turn + 1) if _is_by_hand(event) and not event.replay else given


def _is_by_hand(event: Event) -> bool:
    """Whether somebody else than a service of ours has published it."""
    return event.name != event.id


def _noted_key(event: Event) -> str:
    assert isinstance(event.data, SlideScanned)
    return f"{contents_prefix(event.data.content_id)}{event.name}.json"


def _line(event: Event, turn: int) -> bytes:
    assert isinstance(event.data, SlideScanned)
    told: dict[str, Any] = {"event": event.to_json()}
    return canonical_json(told if turn == event.data.turn else told | {_TURN: turn})


def _of(slide_id: str, data: bytes | None) -> Event | None:
    event = recorded_scan(data) if data else None
    return event if event and event.key == slide_id else None


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
