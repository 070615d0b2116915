"""What the objects of a report or a bag hold: their SHA-256, written beside them once all of them are there.

The first object written under a digest stays, unless it is damaged: then, and only then, a job that has made
its bytes again puts them in its place. An object is damaged if its bytes are not those that were written
down, or where nothing was (an earlier version), if they cannot be read as what they should be.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from histgen_lib.bags import unpack_bag
from histgen_lib.catalogue.keys import DRAFT_HTML, DRAFT_JSON, DRAFT_TEXT
from histgen_lib.catalogue.objects import JSON, StoredFile, put_side_by_side
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.files import sealed_json, sha256_hex, unsealed
from histgen_lib.reports.renderers.draft_json import from_json, to_json
from histgen_lib.storage import ObjectInfo, ObjectStore


class Fault:
    """What can be wrong with an object, said behind its key."""

    MISSING = "is missing"
    OTHER_SIZE = "has another size than was written down"
    OTHER_BYTES = "holds other bytes than were written down"
    UNREADABLE = "cannot be read as what it should be"


@dataclass(frozen=True)
class Digest:
    """Of an object's bytes."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Digest bytes."""
        return cls(sha256_hex(data), len(data))


def read_digests(store: ObjectStore, digests_key: str) -> dict[str, Digest] | None:
    """Return the digests of a set by key; None if none are there that can be read. Raises as the store."""
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


def fault_of(store: ObjectStore, key: str, digest: Digest | None) -> str:
    """Say what is wrong with an object; "" if nothing is. `digest`: as it was written down, if it was."""
    info = store.head(key)
    if info is None:
        return Fault.MISSING
    if digest is None:
        data = store.find(key)
        return "" if data is not None and is_readable(key, data) else Fault.UNREADABLE
    if info.size_bytes != digest.size_bytes:
        return Fault.OTHER_SIZE
    return "" if _sha256(store, key) == digest.sha256 else Fault.OTHER_BYTES


def gaps(digests: Mapping[str, Digest], infos: Mapping[str, ObjectInfo]) -> list[str]:
    """Say of a set, without reading it, what is not there or not of its size. `infos`: what is, by key."""
    missing = [f"{key} {Fault.MISSING}" for key in digests if key not in infos]
    there = {key: one for key, one in digests.items() if key in infos}
    other = [key for key, one in there.items() if infos[key].size_bytes != one.size_bytes]
    return [*missing, *(f"{key} {Fault.OTHER_SIZE}" for key in other)]


def is_whole(store: ObjectStore, digests_key: str, keys: Iterable[str]) -> bool:
    """Whether all of a set is there and sound; digests that are not there yet are written down then."""
    wanted, known = list(keys), read_digests(store, digests_key) or {}
    if any(fault_of(store, key, known.get(key)) for key in wanted):
        return False
    if not known.keys() >= set(wanted):
        write_digests(store, digests_key, known | {key: _digest(store, key) for key in wanted})
    return True


def store_set(store: ObjectStore, files: Sequence[StoredFile], digests_key: str) -> list[bool]:
    """Write a set, the last object only when all others are there; then their digests.

    Say of each whether it is ours now: one that was there stays, unless it is damaged.
    """
    known = read_digests(store, digests_key) or {}
    *others, last = files
    ours = put_side_by_side(lambda file: _put(store, file, known), others)
    ours.append(_put(store, last, known))
    digests = {
        file.key: Digest.of(file.data) if own else known.get(file.key) or _digest(store, file.key)
        for file, own in zip(files, ours, strict=True)
    }
    if digests != known:
        write_digests(store, digests_key, digests)
    return ours


def is_readable(key: str, data: bytes) -> bool:
    """Whether bytes can be read as what lies under such a key: all that can be said without a digest."""
    check = next((check for ending, check in _CHECKS.items() if key.endswith(ending)), None)
    try:
        return check is None or check(data)
    except (HistgenError, ValueError, OSError, SyntaxError, RecursionError):
        return False


def _put(store: ObjectStore, file: StoredFile, known: Mapping[str, Digest]) -> bool:
    if store.put(file.key, file.data, content_type=file.content_type):
        return True
    if not fault_of(store, file.key, known.get(file.key)):
        return False
    return store.put(file.key, file.data, if_absent=False, content_type=file.content_type)


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


def _is_draft(data: bytes) -> bool:
    return to_json(from_json(data)) == data


def _is_page(data: bytes) -> bool:
    return data.lstrip()[:9].lower() == b"<!doctype" and data.rstrip().endswith(b"</html>") and _is_text(data)


def _is_text(data: bytes) -> bool:
    return bool(data.decode().strip()) and "\0" not in data.decode()


def _is_scan(data: bytes) -> bool:
    return ScanRecord.from_bytes(data).to_bytes() == data


def _is_bag(data: bytes) -> bool:
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
    ".scan.json": _is_scan,
    ".parquet": _is_bag,
    ".webp": _is_picture,
}
