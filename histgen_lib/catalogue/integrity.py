"""What the objects of a bag or report must hold, and notes of those that do not.

Beside a set of objects lie their SHA-256 digests, written once all of the set is there. The first object
written under a key stays, unless it is damaged: then, and only then, a job that has made its bytes again
replaces it. An object is damaged if its bytes do not have their digest or, where no digest was written (by an
earlier version), if they cannot be read as what they should be.

`histgen verify` leaves a note of each damaged object under verify/damaged/. A note holds as long as the
object is in the state in which it was checked.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum

from histgen_lib.catalogue.keys import DAMAGE_NOTES, SCAN_RECORD
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.files import sealed_json, sha256_hex, unsealed
from histgen_lib.reports.renderers import DRAFT_HTML, DRAFT_JSON, DRAFT_TEXT, SIMILAR
from histgen_lib.storage import JSON, ObjectInfo, ObjectStore

_WRITERS = 4


class Fault(StrEnum):
    """What is wrong with an object, in words that follow its key."""

    MISSING = "is missing"
    OTHER_SIZE = "has another size than was written down"
    OTHER_BYTES = "holds other bytes than were written down"
    UNREADABLE = "cannot be read as what it should be"


@dataclass(frozen=True)
class Digest:
    """SHA-256 and size of an object's bytes."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Digest bytes."""
        return cls(sha256_hex(data), len(data))


@dataclass(frozen=True)
class StoredFile:
    """An object to be written once."""

    key: str
    data: bytes
    content_type: str


def store_set(store: ObjectStore, files: Sequence[StoredFile], digests_key: str) -> list[bool]:
    """Write a set, its last object only when all others are there; then write their digests.

    Returns for each whether it now is what `files` says: one that was there stays, unless it is damaged.
    """
    known = read_digests(store, digests_key) or {}
    *others, last = files
    ours = _side_by_side(lambda file: _put(store, file, known), others)
    ours.append(_put(store, last, known))
    digests = {
        file.key: Digest.of(file.data) if own else known.get(file.key) or _digest(store, file.key)
        for file, own in zip(files, ours, strict=True)
    }
    if digests != known:
        write_digests(store, digests_key, digests)
    return ours


def _side_by_side(put: Callable[[StoredFile], bool], files: Sequence[StoredFile]) -> list[bool]:
    """Put several objects at a time, as a store answers slowly."""
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="histgen-store") as writers:
        return list(writers.map(put, files))


def _put(store: ObjectStore, file: StoredFile, known: Mapping[str, Digest]) -> bool:
    if store.put(file.key, file.data, content_type=file.content_type):
        return True
    if fault_of(store, file.key, known.get(file.key)) is None:
        return False
    return store.put(file.key, file.data, if_absent=False, content_type=file.content_type)


def is_whole(store: ObjectStore, digests_key: str, keys: Iterable[str]) -> bool:
    """Whether all objects of a set are there and sound; digests that are missing are written then."""
    members, known = list(keys), read_digests(store, digests_key) or {}
    if any(fault_of(store, key, known.get(key)) for key in members):
        return False
    if not known.keys() >= set(members):
        write_digests(store, digests_key, known | {key: _digest(store, key) for key in members})
    return True


def read_digests(store: ObjectStore, digests_key: str) -> dict[str, Digest] | None:
    """Return the digests of a set by key; None if there are none that can be read."""
    data = store.find(digests_key)
    return None if data is None else parse_digests(digests_key, data)


def parse_digests(digests_key: str, data: bytes) -> dict[str, Digest] | None:
    """Read what `write_digests` wrote; None if it is damaged."""
    folder = digests_key.rpartition("/")[0]
    try:
        files = unsealed(data)["files"]
        return {
            f"{folder}/{name}": Digest(str(one["sha256"]), int(one["size_bytes"]))
            for name, one in files.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def write_digests(store: ObjectStore, digests_key: str, digests: Mapping[str, Digest]) -> None:
    """Write the digests of a set, whose keys lie in the folder of `digests_key` or below it."""
    start = len(digests_key.rpartition("/")[0]) + 1
    files = {key[start:]: asdict(one) for key, one in digests.items()}
    store.put(digests_key, sealed_json({"schema": 1, "files": files}), if_absent=False, content_type=JSON)


def fault_of(store: ObjectStore, key: str, digest: Digest | None) -> Fault | None:
    """Return what is wrong with an object; None if nothing is. `digest`: of what it must hold, if known."""
    info = store.head(key)
    if info is None:
        return Fault.MISSING
    if digest is None:
        data = store.find(key)
        return None if data is not None and is_readable(key, data) else Fault.UNREADABLE
    if info.size_bytes != digest.size_bytes:
        return Fault.OTHER_SIZE
    return None if _sha256(store, key) == digest.sha256 else Fault.OTHER_BYTES


def gaps(digests: Mapping[str, Digest], infos: Mapping[str, ObjectInfo]) -> list[str]:
    """List, without reading a set, its objects that are missing or not of their size, each with its fault.

    `infos`: the objects that exist, by key.
    """
    missing = [f"{key} {Fault.MISSING}" for key in digests if key not in infos]
    there = {key: one for key, one in digests.items() if key in infos}
    other = [key for key, one in there.items() if infos[key].size_bytes != one.size_bytes]
    return [*missing, *(f"{key} {Fault.OTHER_SIZE}" for key in other)]


def _digest(store: ObjectStore, key: str) -> Digest:
    digest, size = hashlib.sha256(), 0
    for piece in store.chunks(key):
        digest.update(piece)
        size += len(piece)
    return Digest(digest.hexdigest(), size)


def _sha256(store: ObjectStore, key: str) -> str:
    try:
        return _digest(store, key).sha256
    except InvalidInputError:  # removed since
        return ""


def is_readable(key: str, data: bytes) -> bool:
    """Whether bytes can be read as what lies under such a key: all that can be checked without a digest."""
    check = next((check for ending, check in _CHECKS.items() if key.endswith(ending)), None)
    try:
        return check is None or check(data)
    except (HistgenError, ValueError, OSError, SyntaxError, RecursionError):
        return False


def _is_draft(data: bytes) -> bool:
    from histgen_lib.reports.renderers.draft_json import from_json, to_json

    return to_json(from_json(data)) == data


def _is_similar(data: bytes) -> bool:
    from histgen_lib.reports.renderers.similar_json import readable_similar, to_json

    similar = readable_similar(data)
    return similar is not None and to_json(similar) == data


def _is_page(data: bytes) -> bool:
    return data.lstrip()[:9].lower() == b"<!doctype" and data.rstrip().endswith(b"</html>") and _is_text(data)


def _is_text(data: bytes) -> bool:
    return bool(data.decode().strip()) and "\0" not in data.decode()


def _is_scan(data: bytes) -> bool:
    from histgen_lib.catalogue.scan_record import ScanRecord

    return ScanRecord.from_bytes(data).to_bytes() == data


def _is_bag(data: bytes) -> bool:
    from histgen_lib.bags import unpack_bag

    unpack_bag(data, "a bag")
    return True


def _is_picture(data: bytes) -> bool:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
    return True


_CHECKS = {
    DRAFT_JSON: _is_draft,
    DRAFT_HTML: _is_page,
    DRAFT_TEXT: _is_text,
    SIMILAR: _is_similar,
    SCAN_RECORD: _is_scan,
    ".parquet": _is_bag,
    ".webp": _is_picture,
}


@dataclass(frozen=True)
class Damage:
    """An object that is not what it should be. `kind`: see `verification.KINDS`. `why`: follows its key.

    `owner`: the `ReportOwner.name` of the slide or case that it belongs to, "" if that is not known. `etag`:
    of the object when it was checked, "" where it is missing.
    """

    key: str
    kind: str
    why: str
    owner: str = ""
    etag: str = ""

    @property
    def note_key(self) -> str:
        """The key of its note."""
        return f"{DAMAGE_NOTES}{_short(self.owner)}/{_short(self.key)}.json"

    def __str__(self) -> str:
        return f"{self.key} {self.why}"


def note_damage(store: ObjectStore, damage: Damage) -> None:
    """Write the note of a damaged object."""
    store.put(damage.note_key, sealed_json(asdict(damage)), if_absent=False, content_type=JSON)


def forget_damage(store: ObjectStore, damage: Damage) -> None:
    """Remove the note of an object that is no longer damaged."""
    store.delete(damage.note_key)


def all_notes(store: ObjectStore) -> Iterator[Damage]:
    """Return the damage of all notes, also of those that no longer hold, by note."""
    for info in store.list(DAMAGE_NOTES):
        if damage := _read_note(store.find(info.key)):
            yield damage


def noted_damage(store: ObjectStore, owners: Collection[str] | None = None) -> Iterator[Damage]:
    """Return the damage of the notes that hold; with `owners`, of these alone."""
    folders = None if owners is None else {_short(owner) for owner in owners}
    for info in store.list(DAMAGE_NOTES):
        if folders is None or info.key.removeprefix(DAMAGE_NOTES).partition("/")[0] in folders:
            damage = _read_note(store.find(info.key))
            if damage and etag_of(store, damage.key) == damage.etag:
                yield damage


def etag_of(store: ObjectStore, key: str) -> str:
    """Return an object's etag, "" if it is missing."""
    info = store.head(key)
    return info.etag if info else ""


def _short(text: str) -> str:
    return sha256_hex(text.encode())[:32]


def _read_note(data: bytes | None) -> Damage | None:
    try:
        return Damage(**{name: str(value) for name, value in unsealed(data or b"").items()})
    except (ValueError, TypeError, AttributeError):
        return None
