"""Objects that are damaged or missing: what is said of one, and the notes by which everybody knows of it.

`histgen verify` leaves a note in the store for each, under verify/damaged/. A note holds as long as the
object is as it was when it was looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

from histgen_lib.catalogue.objects import JSON
from histgen_lib.files import sealed_json, sha256_hex, unsealed
from histgen_lib.storage import ObjectStore

NOTES = "verify/damaged/"


@dataclass(frozen=True)
class Damage:
    """An object that is not what it should be. `kind`: see `verifying.KINDS`. `why`: follows its key.

    `owner`: the slide or case that it belongs to, "" if that is not known. `etag`: of the object, "" where it
    is missing.
    """

    key: str
    kind: str
    why: str
    owner: str = ""
    etag: str = ""

    @property
    def note_key(self) -> str:
        """Where its note lies."""
        return f"{NOTES}{_short(self.owner)}/{_short(self.key)}.json"

    def __str__(self) -> str:
        """Say it to a person."""
        return f"{self.key} {self.why}"


def note(store: ObjectStore, damage: Damage) -> None:
    """Have everybody know."""
    store.put(damage.note_key, sealed_json(asdict(damage)), if_absent=False, content_type=JSON)


def forget(store: ObjectStore, damage: Damage) -> None:
    """Take a note back."""
    store.delete(damage.note_key)


def notes(store: ObjectStore) -> Iterator[Damage]:
    """Return what all notes say, by note. Raises as the store."""
    for info in store.list(NOTES):
        if damage := _read(store.find(info.key)):
            yield damage


def noted(store: ObjectStore, owners: Collection[str] | None = None) -> Iterator[Damage]:
    """Return what the notes say that hold; with `owners`, of these alone. Raises as the store."""
    rooms = None if owners is None else {_short(owner) for owner in owners}
    for info in store.list(NOTES):
        if rooms is None or info.key.removeprefix(NOTES).partition("/")[0] in rooms:
            damage = _read(store.find(info.key))
            if damage and etag_of(store, damage.key) == damage.etag:
                yield damage


def etag_of(store: ObjectStore, key: str) -> str:
    """Return an object's etag, "" if it is missing."""
    info = store.head(key)
    return info.etag if info else ""


def _short(text: str) -> str:
    return sha256_hex(text.encode())[:32]


def _read(data: bytes | None) -> Damage | None:
    try:
        return Damage(**{name: str(value) for name, value in unsealed(data or b"").items()})
    except (ValueError, TypeError, AttributeError):
        return None
