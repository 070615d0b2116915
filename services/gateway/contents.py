"""Reads a slide's bytes, each once: a digest over every file or object that the slide is stored in."""

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

from histgen_lib.access.places import FilePlace, ObjectPlace, Place, Roots, parse_uri
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import sha256_hex
from histgen_lib.slides.formats import DICOM_SUFFIX, HAMAMATSU_SUFFIXES, MIRAX_SUFFIX, named_parts
from histgen_lib.slides.limits import DEFAULT_BYTES, require_bytes
from histgen_lib.slides.source import admit, content_id_of, stored_in
from histgen_lib.storage import ObjectInfo, ObjectStore
from services.gateway.watchdog import Watchdog, timed_out

_SEVERAL_FILES = (MIRAX_SUFFIX, *HAMAMATSU_SUFFIXES, DICOM_SUFFIX)
_GLANCE_S = 2.0
"""How long it may take to check that a file still exists: other requests wait for that."""
State = tuple[str, int, int]
"""A file's name, size in bytes and modification time in ns."""


@dataclass(frozen=True)
class Content:
    """A slide's content. `content_id`: SHA-256 over its bytes; `size_bytes`: of all its files together."""

    content_id: str
    size_bytes: int


class Contents:
    """Reads slides where they are stored, within `roots`. Safe to use from several threads.

    `open_bucket` connects to a bucket; each is opened once. `watchdog`: gives up on files that hang.
    `most_bytes`: the largest size of a slide.
    """

    def __init__(
        self,
        roots: Roots,
        open_bucket: Callable[[str], ObjectStore],
        watchdog: Watchdog | None = None,
        *,
        most_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._roots = roots
        self._watchdog = watchdog or Watchdog()
        self._open_bucket, self._most_bytes = open_bucket, most_bytes
        self._buckets: dict[str, ObjectStore] = {}
        self._lock = threading.Lock()

    def require(self, place: Place) -> None:
        """Refuse a place outside the roots: InvalidInputError("uri-outside-roots")."""
        self._roots.require(place)

    def name(self, place: Place) -> str:
        """Return the slide id that a place implies. Raises as `require`, and "slide-open-timeout"."""
        if isinstance(place, FilePlace):
            return self._watchdog.look(place.path, partial(self._file_name, place))
        self.require(place)
        return place.slide_id

    def measure(self, place: Place, slots: threading.Semaphore | None = None) -> Content:
        """Read all of a slide. `slots` limits how many slides in files are read at a time.

        Raises InvalidInputError: "slide-missing", "slide-unreadable", "slide-incomplete" (some of its files
        are missing), "slide-changed" (while it was read), "slide-open-timeout" (it cannot be opened, or
        reading stands still), "slide-too-large", "slide-in-parts", "uri-outside-roots" (the slide, or one of
        its files, is there); TransientError("storage-unavailable").
        """
        if isinstance(place, ObjectPlace):
            return self._object(place)
        parts, before = self._watchdog.look(place.path, partial(self._opened, place))
        return self._watchdog.look(place.path, partial(self._read, place, parts, before), slots)

    def find(self, place: ObjectPlace) -> ObjectInfo | None:
        """Look up an object; None if there is none. Raises as `measure`."""
        try:
            return self.bucket(place.bucket).head(place.key)
        except FatalError as error:
            raise _closed(place, error) from error

    def exists(self, uri: str) -> bool:
        """Return whether a file or object exists; True where that cannot be found out.

        Raises TransientError("storage-unavailable").
        """
        try:
            place = parse_uri(uri)
            if isinstance(place, FilePlace):
                return self._watchdog.look(place.path, partial(self._file_exists, place), still_s=_GLANCE_S)
            self.require(place)
            return self.find(place) is not None
        except (InvalidInputError, OSError):
            return True

    def bucket(self, name: str) -> ObjectStore:
        """Return the connection to a bucket, made once."""
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = self._open_bucket(name)
            return self._buckets[name]

    def _file_name(self, place: FilePlace) -> str:
        with _explained(place):
            self.require(place)
            return place.slide_id

    def _file_exists(self, place: FilePlace) -> bool:
        self.require(place)
        return place.path.exists()

    def _opened(self, place: FilePlace) -> tuple[list[Path], list[State]]:
        """Find all files of a slide, and their states."""
        with _explained(place):
            admit(place.path, self._roots)
            _check_kind(place)
            parts = sorted(stored_in(place.path))
            if absent := sum(not part.is_file() for part in named_parts(place.path)):
                raise _incomplete(place, absent)
            before = states(parts)
            require_bytes(_name(place), sum(size for _, size, _ in before), self._most_bytes)
            return parts, before

    def _read(self, place: FilePlace, parts: Sequence[Path], before: Sequence[State]) -> Content:
        with _explained(place):
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
            content_id = _digest(self.bucket(place.bucket), place, before.size_bytes)
        except FatalError as error:
            raise _closed(place, error) from error
        if self.find(place) != before:
            raise _changed(place)
        return Content(content_id, before.size_bytes)


@contextmanager
def _explained(place: FilePlace) -> Iterator[None]:
    """Explain why a file cannot be read. One that another program holds (EBUSY) may be free later."""
    try:
        yield
    except InvalidInputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
            raise timed_out(place.path) from error
        raise
    except FileNotFoundError as error:
        raise _missing(place) from error
    except OSError as error:
        raise _unreadable(place, error.strerror or type(error).__name__) from error


def _check_kind(place: FilePlace) -> None:
    """Refuse a folder that is not a slide: one without DICOM files."""
    path = place.path
    if path.is_dir() and not any(part.suffix.lower() == DICOM_SUFFIX for part in path.iterdir()):
        raise InvalidInputError(
            "slide-is-folder",
            f"{_name(place)} is a folder without DICOM files.",
            hint="Give the slide files themselves; `histgen backfill` takes a whole folder.",
        )


def states(parts: Sequence[Path]) -> list[State]:
    """Look up the size and modification time of files. Raises OSError."""
    found = [(part.name, part.stat()) for part in parts]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def mark_of(uri: str, found: Sequence[State] | ObjectInfo) -> str:
    """Identify a slide's state without reading it: 64 hexadecimal digits that change when it is rewritten."""
    state = [found.size_bytes, found.etag] if isinstance(found, ObjectInfo) else list(found)
    return sha256_hex(json.dumps([uri, state]).encode())


def _digest(bucket: ObjectStore, place: ObjectPlace, size_bytes: int) -> str:
    """Compute the SHA-256 of an object of `size_bytes`; stop if it has become larger."""
    digest, left = hashlib.sha256(), size_bytes
    try:
        for piece in bucket.chunks(place.key):
            digest.update(piece)
            left -= len(piece)
            if left < 0:
                break
    except InvalidInputError as error:  # it was there before
        raise _vanished() from error
    if left < 0:
        raise _changed(place)
    return digest.hexdigest()


def _name(place: Place) -> str:
    return place.path.name if isinstance(place, FilePlace) else place.key.rpartition("/")[2]


def _missing(place: Place) -> InvalidInputError:
    kind = "file" if isinstance(place, FilePlace) else "object"
    return InvalidInputError(
        "slide-missing", f"There is no {kind} {_name(place)}.", hint="Check the URI for typing errors."
    )


def _vanished() -> InvalidInputError:
    return InvalidInputError(
        "slide-missing", "The object was deleted while it was read.", hint="Upload the slide again."
    )


def _changed(place: Place) -> InvalidInputError:
    return InvalidInputError(
        "slide-changed",
        f"{_name(place)} changed while it was read.",
        hint="Wait until the copy has finished, then submit it again.",
    )


def _incomplete(place: Place, absent: int) -> InvalidInputError:
    """Say how many files are missing, not which: names that an index states may identify a patient."""
    return InvalidInputError(
        "slide-incomplete",
        f"{_name(place)} names {absent} files that do not exist.",
        hint="Copy all files and folders that belong to the slide.",
    )


def _unreadable(place: Place, why: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-unreadable",
        f"{_name(place)} cannot be read: {why}.",
        hint="Check that the gateway's account may read it, and that its disk or network share is available.",
    )


def _closed(place: ObjectPlace, error: FatalError) -> InvalidInputError:
    """Turn a bucket's refusal into an error of the slide: it must not stop the gateway."""
    return InvalidInputError(
        "slide-unreadable",
        f"{_name(place)} cannot be read: {error.message}",
        hint=error.hint or "Check that the gateway may read that bucket.",
    )


def _in_parts(place: ObjectPlace) -> InvalidInputError:
    return InvalidInputError(
        "slide-in-parts",
        f"{_name(place)} is one of several files of a slide; such slides cannot be read from S3.",
        hint="Put MIRAX, VMS and DICOM slides into a folder; from S3 only slides in one file are taken.",
    )
