"""From a slide's URI to files that can be opened, and that are what was announced.

A slide that is gone needs a person (it is dead-lettered); a share that is unavailable comes back (the job
waits for it). A share counts as unavailable when the system says so, or when its table of mounts lists a
mount point where nothing is mounted; an empty folder alone proves nothing.

A content id costs reading the whole slide. A fingerprint covers the files' sizes and samples of their bytes,
for the price of a few small reads: another scan of the same glass differs everywhere, so it differs there
too.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from histgen_lib.access.places import FilePlace, ObjectPlace, Place, Roots, parse_uri
from histgen_lib.access.scratch import Scratch
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.files import sha256_hex
from histgen_lib.opening import open_ordinary
from histgen_lib.slides.limits import DEFAULT_BYTES, require_bytes
from histgen_lib.slides.metadata import read_sidecar
from histgen_lib.slides.source import admit, content_id_of, locate, stored_in
from histgen_lib.storage import ObjectStore, StorageSettings, open_foreign_bucket

_AWAY = {
    getattr(errno, name)
    for name in (
        *("ESTALE", "EIO", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ETIMEDOUT", "ENODEV", "ENXIO", "EREMOTEIO", "EAGAIN"),
    )
    if hasattr(errno, name)
}
"""The system's errors for a file on a share whose server cannot be reached."""

_FSTAB = Path("/etc/fstab")
_NAME_BYTES = 200
"""What a copy keeps of its object's name, from the end. A file name may have 255 bytes, and a file that is
being fetched has a prefix and a suffix besides."""


def stated_mounts(table: Path = _FSTAB) -> list[Path]:
    """List the mount points in the system's table of mounts."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines if not line.lstrip().startswith("#")]
    places = [Path(field[1].replace("\\040", " ")) for field in fields if len(field) > 1]
    return [place for place in places if place.is_absolute() and place != Path("/")]


@dataclass(frozen=True)
class SlideFile:
    """A slide that was admitted: its file or DICOM folder, and where all its files have to lie."""

    path: Path
    within: Roots


class SlideFiles:
    """Opens slides by URI: file:// in place, s3:// by way of a copy in `scratch`.

    `roots`: where slides may be taken from, whoever names them. `storage`: endpoint and region of buckets.
    `mounts`: see `stated_mounts`. `most_bytes`: how large one slide may be.
    """

    def __init__(
        self,
        storage: StorageSettings,
        scratch: Callable[[], Scratch],
        *,
        roots: Roots,
        mounts: Sequence[Path] | None = None,
        most_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self.most_bytes = most_bytes
        self._storage = storage
        self._make_scratch = scratch
        self._roots = roots
        self._scratch: Scratch | None = None
        self._buckets: dict[str, ObjectStore] = {}
        self._mounts = stated_mounts() if mounts is None else list(mounts)

    @contextmanager
    def open(self, uri: str) -> Iterator[SlideFile]:
        """Provide the slide's file for the duration of the block.

        InvalidInputErrors raised in the block pass, unless the file's share turns out to be unavailable: then
        TransientError("slide-away"). Raises InvalidInputError: "slide-uri", "uri-outside-roots",
        "slide-missing", "slide-unreadable", "slide-is-folder", "slide-too-large"; TransientError:
        "slide-away" (for buckets as well), "scratch-full".
        """
        place = self._place(uri)
        if isinstance(place, ObjectPlace):
            with self._copy(place) as path:
                yield _admitted(path, Roots((path.parent,)))
            return
        with self._unless_away(place):
            yield _admitted(place.path, self._roots)

    def sidecar_mpp(self, uri: str) -> float | None:
        """Return the scale that a sidecar beside a file states, see `slides.metadata.read_sidecar`.

        Raises as `open` does for URIs and for shares that are unavailable.
        """
        place = self._place(uri)
        if isinstance(place, ObjectPlace):
            return None
        with self._unless_away(place):
            return read_sidecar(place.path, self._roots)

    def _place(self, uri: str) -> Place:
        """Parse a URI that anyone may have written; the only function that turns one into a path or a key."""
        try:
            place = parse_uri(uri)
        except InvalidInputError:
            raise _bad_uri() from None
        self._roots.require(place)
        if isinstance(place, FilePlace) and (not place.path.name or _is_too_long(place.path)):
            raise _bad_uri()
        return place

    @contextmanager
    def _unless_away(self, place: FilePlace) -> Iterator[None]:
        try:
            yield
        except InvalidInputError as error:
            self._check_there(place.path)
            raise error

    def _check_there(self, path: Path) -> None:
        """Raise TransientError("slide-away") if the path cannot be looked up now, but may be later."""
        try:
            path.stat()
        except OSError as error:
            lost = isinstance(error, FileNotFoundError | NotADirectoryError) and self._unmounted(path)
            if error.errno in _AWAY or lost:
                raise TransientError(
                    "slide-away",
                    f"The disk or network share that holds {path.name} is unavailable.",
                    hint="Mount it again; the slide is then processed automatically.",
                ) from error

    def _unmounted(self, path: Path) -> bool:
        return any(place in path.parents and not os.path.ismount(place) for place in self._mounts)

    @contextmanager
    def _copy(self, place: ObjectPlace) -> Iterator[Path]:
        name = PurePosixPath(place.key).name
        if not name:  # a key of slashes alone
            raise _bad_uri()
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self._held(place, name))
            except FatalError as error:
                if error.code == "storage-url":  # of the bucket's name
                    raise _bad_uri() from error
                raise error if error.code.startswith("scratch") else _closed(name, error) from error
            except InvalidInputError as error:
                raise _bad_uri() if error.code == "object-key" else error from error
            except TransientError as error:
                raise _bucket_away(name, error) if error.code == "storage-unavailable" else error from error
            yield path

    def _held(self, place: ObjectPlace, name: str) -> AbstractContextManager[Path]:
        store, key = self._bucket(place.bucket), place.key
        found = store.head(key)
        if found is None:
            raise _missing(name)
        require_bytes(name, found.size_bytes, self.most_bytes)
        if self._scratch is None:
            self._scratch = self._make_scratch()
        identity = f"{place.uri}|{found.etag}|{found.size_bytes}"
        short = name.encode()[-_NAME_BYTES:].decode(errors="ignore")
        return self._scratch.holding(identity, short, found.size_bytes, lambda path: store.fetch(key, path))

    def _bucket(self, name: str) -> ObjectStore:
        if name not in self._buckets:
            self._buckets[name] = open_foreign_bucket(self._storage, name)
        return self._buckets[name]


def _admitted(path: Path, within: Roots) -> SlideFile:
    """Refuse what cannot be a slide by a few small reads, before all of it is read."""
    if admit(path, within):
        locate(path)
    return SlideFile(path, within)


def _is_too_long(path: Path) -> bool:
    """Return whether the file system cannot have such a name."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _bad_uri() -> InvalidInputError:
    return InvalidInputError(
        "slide-uri",
        "The slide's URI cannot belong to a file or an S3 object.",
        hint='Announce slides as "file:///folder/slide.svs" or "s3://bucket/key".',
    )


def _missing(name: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-missing",
        f"There is no object {name}.",
        hint="Upload the slide again, then replay the dead letter.",
    )


def _bucket_away(name: str, error: TransientError) -> TransientError:
    """Return the error for a slide's own S3, as opposed to the store that every job needs."""
    return TransientError(
        "slide-away", f"The bucket that holds {name} cannot be read now: {error.message}", hint=error.hint
    )


def _closed(name: str, error: FatalError) -> InvalidInputError:
    """Return the error for a bucket that denies access: a problem of this slide, not of the whole service."""
    return InvalidInputError(
        "slide-unreadable",
        f"{name} cannot be read: {error.message}",
        hint=error.hint or "Check that this account may read that bucket.",
    )


_SAMPLES, _SAMPLE_BYTES = 32, 4096

FileStates = tuple[tuple[str, int, int], ...]
"""Of each file: its real path, its size (bytes) and its time of change (ns)."""


def present_files(
    path: Path, size_bytes: int | None = None, *, most_bytes: int
) -> tuple[list[Path], FileStates, str]:
    """Find the slide's files and their states, and read them once for their content id.

    `size_bytes`: the total size that was announced, if known; files of another size are not read. Raises
    InvalidInputError: "slide-missing", "slide-unreadable", "slide-changed", and "slide-too-large" for more
    than `most_bytes`, before reading them.
    """
    parts = stored_in(path)
    try:
        states = _states_of(parts)
        size = sum(size for _, size, _ in states)
        require_bytes(path.name, size, most_bytes)
        if size_bytes not in (None, size):
            raise changed(path)
        return parts, states, content_id_of(parts)
    except OSError as error:
        raise _unreadable(path, error) from error


@contextmanager
def recorded_files(path: Path, fingerprint: str | None) -> Iterator[None]:
    """Check by a few small reads that the slide's files are those of a scan record, and stay so in the block.

    Raises InvalidInputError: "slide-changed", "slide-missing", "slide-unreadable".
    """
    parts = stored_in(path)
    try:
        before = _states_of(parts)
        if fingerprint is not None and fingerprint_of(parts) != fingerprint:
            raise changed(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with unchanged(path, parts, before):
        yield


@contextmanager
def unchanged(path: Path, parts: Sequence[Path], before: FileStates) -> Iterator[None]:
    """Refuse what was read in the block if the files changed: pixels are a mixture then, and errors are void.

    Raises as `recorded_files`.
    """
    try:
        yield
    except InvalidInputError:
        _compare(path, parts, before)
        raise
    _compare(path, parts, before)


def changed(path: Path) -> InvalidInputError:
    """Return the error for a slide that is not what was announced."""
    return InvalidInputError(
        "slide-changed",
        f"{path.name} does not hold, or no longer holds, what was announced.",
        hint="If it was scanned again, the newer scan is announced and drafted automatically; "
        "otherwise wait until the copy has finished, then submit it again.",
    )


def fingerprint_of(parts: Sequence[Path]) -> str:
    """Return 64 hexadecimal digits for the files of a slide; names and dates do not count. Raises OSError."""
    return sha256_hex("".join(sorted(_sampled(part) for part in parts)).encode())


def _states_of(parts: Sequence[Path]) -> FileStates:
    """Look the files up. Raises OSError. A link that leads elsewhere afterwards is a change, too."""
    found = [(os.path.realpath(part), part.stat()) for part in parts]
    return tuple((real, state.st_size, state.st_mtime_ns) for real, state in found)


def _compare(path: Path, parts: Sequence[Path], before: FileStates) -> None:
    try:
        after = _states_of(parts)
    except OSError as error:
        raise _unreadable(path, error) from error
    if after != before:
        raise changed(path)


def _sampled(part: Path) -> str:
    """Return the SHA-256 of a file's size and of bytes spread evenly over it, its first and last included."""
    with open_ordinary(part) as handle:
        size = handle.seek(0, 2)
        sha = hashlib.sha256(str(size).encode())
        last = max(0, size - _SAMPLE_BYTES)
        for place in sorted({last * index // (_SAMPLES - 1) for index in range(_SAMPLES)}):
            handle.seek(place)
            sha.update(handle.read(_SAMPLE_BYTES))
    return sha.hexdigest()


def _unreadable(path: Path, error: OSError) -> InvalidInputError:
    if isinstance(error, FileNotFoundError):
        return InvalidInputError(
            "slide-missing",
            f"{path.name}, or a file that belongs to it, no longer exists.",
            hint="Put it back and replay the dead letter, or submit it from where it is now.",
        )
    return InvalidInputError(
        "slide-unreadable",
        f"{path.name} cannot be read: {error.strerror or type(error).__name__}.",
        hint="Check that this account may read it and that its disk is sound, then replay the dead letter.",
    )
