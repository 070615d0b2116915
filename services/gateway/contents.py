"""What a slide's bytes are: a digest over every file or object it is stored in, each read once."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from histgen_lib.access.finding import DICOM_SUFFIX
from histgen_lib.access.places import FilePlace, ObjectPlace, Place, Roots, parse_uri
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import sha256_hex
from histgen_lib.slides.admission import admit
from histgen_lib.slides.parts import HAMAMATSU_SUFFIXES, MIRAX_SUFFIX, named_parts
from histgen_lib.slides.quotas import DEFAULT_BYTES, require_bytes
from histgen_lib.slides.source import content_id_of, stored_in
from histgen_lib.storage import ObjectInfo, ObjectStore
from services.gateway.patience import Patience, stands_still

_SEVERAL_FILES = (MIRAX_SUFFIX, *HAMAMATSU_SUFFIXES, DICOM_SUFFIX)
_GLANCE_S = 2.0
"""How long it may take to look whether a file is still where it was: others wait for that."""
State = tuple[str, int, int]
"""A file's name, size in bytes and time of change in ns."""


@dataclass(frozen=True)
class Content:
    """What a slide holds. `content_id`: SHA-256 over its bytes; `size_bytes`: of all its files together."""

    content_id: str
    size_bytes: int


class Contents:
    """Reads slides where they lie. Safe to use from several threads.

    `open_bucket` connects to a bucket; each is opened once. `patience`: with files that cannot be opened.
    `most_bytes`: what one slide may have.
    """

    def __init__(
        self,
        roots: Roots,
        open_bucket: Callable[[str], ObjectStore],
        patience: Patience | None = None,
        *,
        most_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._roots = roots
        self._patience = patience or Patience()
        self._open_bucket, self._most_bytes = open_bucket, most_bytes
        self._buckets: dict[str, ObjectStore] = {}
        self._lock = threading.Lock()

    def require(self, place: Place) -> None:
        """Refuse a place outside the roots: InvalidInputError("uri-outside-roots")."""
        self._roots.require(place)

    def name(self, place: Place) -> str:
        """Return the slide's id unless another is stated. Raises as `require`, and "slide-open-timeout"."""
        if isinstance(place, FilePlace):
            return self._patience.look(place.path, partial(self._file_name, place))
        self.require(place)
        return place.slide_id

    def measure(self, place: Place, slots: threading.Semaphore | None = None) -> Content:
        """Read all of a slide; `slots`: as many files as may be read at a time, or as there are.

        Raises InvalidInputError: "slide-missing", "slide-unreadable", "slide-incomplete" (files that belong
        to it are missing), "slide-changed" (while it was read), "slide-open-timeout" (it cannot be opened, or
        reading it stands still), "slide-too-large", "slide-in-parts", "uri-outside-roots" (a file that
        belongs to it lies there); TransientError("storage-unavailable").
        """
        if isinstance(place, ObjectPlace):
            return self._object(place)
        parts, before = self._patience.look(place.path, partial(self._opened, place))
        return self._patience.look(place.path, partial(self._read, place, parts, before), slots)

    def find(self, place: ObjectPlace) -> ObjectInfo | None:
        """Look an object up; None if there is none. Raises as `measure`."""
        try:
            return self._bucket(place.bucket).head(place.key)
        except FatalError as error:
            raise _closed(place, error) from error

    def lies_at(self, uri: str) -> bool:
        """Tell whether a file or object is there; so it is said to be where that cannot be found out.

        Raises TransientError("storage-unavailable").
        """
        try:
            place = parse_uri(uri)
            if isinstance(place, FilePlace):
                return self._patience.look(place.path, partial(self._exists, place), still_s=_GLANCE_S)
            self.require(place)
            return self.find(place) is not None
        except (InvalidInputError, OSError):
            return True

    def bucket(self, name: str) -> ObjectStore:
        """Connect to a bucket, once."""
        return self._bucket(name)

    def _file_name(self, place: FilePlace) -> str:
        with _told_of(place):
            self.require(place)
            return place.slide_id

    def _exists(self, place: FilePlace) -> bool:
        self.require(place)
        return place.path.exists()

    def _opened(self, place: FilePlace) -> tuple[list[Path], list[State]]:
        """Find all files of a slide, and the state that they are in."""
        with _told_of(place):
            admit(place.path, self._roots)
            _check_kind(place)
            parts = sorted(stored_in(place.path))
            if absent := sum(not part.is_file() for part in named_parts(place.path)):
                raise _incomplete(place, absent)
            before = states(parts)
            require_bytes(_name(place), sum(size for _, size, _ in before), self._most_bytes)
            return parts, before

    def _read(self, place: FilePlace, parts: Sequence[Path], before: Sequence[State]) -> Content:
        with _told_of(place):
            content_id = content_id_of(parts)
            if states(parts) != before:
                raise _changed(place)
        return Content(content_id, sum(size for _, size, _ in before))

    def _object(self, place: ObjectPlace) -> Content:
        if PurePosixPath(place.key).suffix.rstrip().lower() in _SEVERAL_FILES:
            raise _in_parts(place)
        before = self.find(place)
        if before is None:
            raise _missing(place)
        require_bytes(_name(place), before.size_bytes, self._most_bytes)
        try:
            content_id = _digest(self._bucket(place.bucket), place, before.size_bytes)
        except FatalError as error:
            raise _closed(place, error) from error
        if self.find(place) != before:
            raise _changed(place)
        return Content(content_id, before.size_bytes)

    def _bucket(self, name: str) -> ObjectStore:
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = self._open_bucket(name)
            return self._buckets[name]


@contextmanager
def _told_of(place: FilePlace) -> Iterator[None]:
    """Put into words why a file cannot be read; one that another program holds may be let go of."""
    try:
        yield
    except InvalidInputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
            raise stands_still(place.path) from error
        raise
    except FileNotFoundError as error:
        raise _missing(place) from error
    except OSError as error:
        raise _unreadable(place, error.strerror or type(error).__name__) from error


def _check_kind(place: FilePlace) -> None:
    """Refuse a whole archive: a folder without DICOM."""
    path = place.path
    if path.is_dir() and not any(part.suffix.lower() == DICOM_SUFFIX for part in path.iterdir()):
        raise InvalidInputError(
            "slide-is-folder",
            f"{_name(place)} is a folder without DICOM files.",
            hint="Give the slide files themselves; `histgen backfill` takes a whole folder.",
        )


def states(parts: Sequence[Path]) -> list[State]:
    """Look up the size and time of change of files. Raises OSError."""
    found = [(part.name, part.stat()) for part in parts]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def mark_of(uri: str, found: Sequence[State] | ObjectInfo) -> str:
    """Tell a slide's state without reading it: 64 hexadecimal digits that change when it is written again."""
    state = [found.size_bytes, found.etag] if isinstance(found, ObjectInfo) else list(found)
    return sha256_hex(json.dumps([uri, state]).encode())


def _digest(bucket: ObjectStore, place: ObjectPlace, size_bytes: int) -> str:
    """SHA-256 of an object of so many bytes; one that has become larger is not read to its end."""
    digest, left = hashlib.sha256(), size_bytes
    try:
        for piece in bucket.chunks(place.key):
            digest.update(piece)
            left -= len(piece)
            if left < 0:
                break
    except InvalidInputError as error:  # it was there before
        raise _missing_object() from error
    if left < 0:
        raise _changed(place)
    return digest.hexdigest()


def _name(place: Place) -> str:
    return place.path.name if isinstance(place, FilePlace) else place.key.rpartition("/")[2]


def _missing(place: Place) -> InvalidInputError:
    kind = "file" if isinstance(place, FilePlace) else "object"
    return InvalidInputError(
        "slide-missing", f"There is no {kind} {_name(place)}.", hint="Check the URI for a typing error."
    )


def _missing_object() -> InvalidInputError:
    return InvalidInputError(
        "slide-missing", "The object went away while it was read.", hint="Upload the slide again."
    )


def _changed(place: Place) -> InvalidInputError:
    return InvalidInputError(
        "slide-changed",
        f"{_name(place)} changed while it was read.",
        hint="Wait until the copy has finished, then tell of it again.",
    )


def _incomplete(place: Place, absent: int) -> InvalidInputError:
    """Count the files that its index names; the names are the index's words, and may be of a patient."""
    return InvalidInputError(
        "slide-incomplete",
        f"{_name(place)} names {absent} files that are not there.",
        hint="Copy all files and folders that belong to the slide.",
    )


def _unreadable(place: Place, why: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-unreadable",
        f"{_name(place)} cannot be read: {why}.",
        hint="Check that the gateway's account may read it and that its disk or network share is there.",
    )


def _closed(place: ObjectPlace, error: FatalError) -> InvalidInputError:
    """Put a bucket that refuses us into words: that is the slide's trouble, not the gateway's end."""
    return InvalidInputError(
        "slide-unreadable",
        f"{_name(place)} cannot be read: {error.message}",
        hint=error.hint or "Check that the gateway's account may read that bucket.",
    )


def _in_parts(place: ObjectPlace) -> InvalidInputError:
    return InvalidInputError(
        "slide-in-parts",
        f"{_name(place)} is one of several files of a slide, which cannot be taken from S3.",
        hint="Put MIRAX, VMS and DICOM slides into a folder; S3 may hold slides that are one file.",
    )
