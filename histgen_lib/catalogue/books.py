"""The books: whose a slide's id is, and what was announced of it last.

The gateway keeps them of what it announces. A slide whose event somebody published himself is written down by
the tiler, when it takes it, by the same rule: an id belongs to the slide that came first with it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace

from histgen_lib.catalogue.keys import contents_prefix, owner_key, scanned_key, taken_key
from histgen_lib.catalogue.objects import JSON
from histgen_lib.catalogue.recall import (
    Owner,
    Said,
    announced_owner,
    is_by_hand,
    owner_in,
    owner_of,
    said_in,
    said_last,
)
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.storage import ObjectStore


def claim(store: ObjectStore, slide_id: str, owner: Owner) -> Owner:
    """Take a slide id, unless someone has it; return whose it is."""
    key = owner_key(slide_id)
    if found := owner_in(store.find(key), slide_id):
        return found
    first = announced_owner(store, slide_id) or owner
    mine = first.to_bytes(slide_id)
    if store.put(key, mine, content_type=JSON):
        return first
    if found := owner_in(store.find(key), slide_id):
        return found
    store.put(key, mine, if_absent=False, content_type=JSON)  # it is damaged
    return first


def write_down(store: ObjectStore, event: Event) -> None:
    """Write an event down that the broker has; the index by content comes last, as it says "announced"."""
    assert isinstance(event.data, SlideScanned)
    said = Said(event, event.data)
    store.put(scanned_key(event.key), said.to_bytes(), if_absent=False, content_type=JSON)
    store.put(said.content_key, said.to_bytes(), content_type=JSON)


def take_in(store: ObjectStore, event: Event) -> SlideScanned:
    """Write down a slide that did not come by the gateway, once; return what is to be done, in its turn.

    An event may name anything: id and bytes are its slide's only once that was read (`keep`). Raises
    InvalidInputError: "slide-id-invalid", "slide-id-taken".
    """
    data, by_hand = event.data, is_by_hand(event)
    assert isinstance(data, SlideScanned)
    noted = taken_key(event.key, event.name) if by_hand else Said(event, data).content_key
    if known := said_in(store.find(noted), event.key):
        return known.data
    if by_hand:
        for name in (data.slide_id, data.case_id or data.slide_id, *data.case_slides):
            check_name(name)
    if owner := owner_of(store, data.slide_id):
        _refuse_other(store, data, owner)
    said = Said(event, replace(data, turn=_turn_of(event, said_last(store, event.key))))
    if by_hand and not event.replay:
        store.put(scanned_key(event.key), said.to_bytes(), if_absent=False, content_type=JSON)
        store.put(noted, said.to_bytes(), content_type=JSON)
    else:  # the gateway writes its own down; of one that is replayed that was done before
        store.put(scanned_key(event.key), said.to_bytes(), content_type=JSON)
    return said.data


def keep(store: ObjectStore, event: Event, data: SlideScanned) -> None:
    """Have a slide that was read keep its id, and be known by its bytes; `data`: what was read.

    Raises InvalidInputError("slide-id-taken") if another slide has the id.
    """
    _refuse_other(store, data, claim(store, data.slide_id, Owner(data.uri, data.content_id)))
    assert isinstance(event.data, SlideScanned)
    if is_by_hand(event) and not event.replay and data.content_id == event.data.content_id:
        said = Said(event, data)
        store.put(said.content_key, said.to_bytes(), content_type=JSON)


def taken(slide_id: str) -> InvalidInputError:
    """Say that an id is another slide's."""
    return InvalidInputError(
        "slide-id-taken",
        f"The slide id {slide_id} belongs to another slide, from another place.",
        hint="Rename the file, or state another slide_id, and send it again. To replace a slide by a new "
        "scan, put the new file where the old one was.",
    )


def _refuse_other(store: ObjectStore, data: SlideScanned, owner: Owner) -> None:
    """Refuse other bytes from another place under an id: two slides must never be mixed."""
    if owner.uri == data.uri or owner.content_id == data.content_id:
        return
    noted = (store.get(info.key) for info in store.list(contents_prefix(data.content_id)))
    if not any(said_in(line, data.slide_id) for line in noted):  # bytes that the slide once had, moved
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


def _turn_of(event: Event, latest: Said | None) -> int:
    """Say in which turn an event is, by what was announced last: of others' each is one of its own."""
    assert isinstance(event.data, SlideScanned)
    given = event.data.turn
    if latest is None:
        return given
    if latest.event.name == event.name or (latest.event.trace_id == event.trace_id and event.replay):
        return max(given, latest.data.turn)
    return max(given, latest.data.turn + 1) if is_by_hand(event) and not event.replay else given
