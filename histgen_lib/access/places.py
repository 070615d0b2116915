"""Where slides lie: file:// and s3:// URIs, and the roots that they may point into.

The only module that parses URIs of slides and decides which places are allowed, both for the gateway, which
announces slides, and for the workers, which take URIs from anyone who can write to the broker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.names import is_s3_key, slide_id_of

_MOST_CHARACTERS = 4096
_MOST_PATH_BYTES, _MOST_PART_CHARACTERS = 4095, 255
"""Limits of a path, and of one name in it, on Linux; many file systems allow less for a name."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True)
class FilePlace:
    """A slide in the file system: its file, or the folder of a DICOM series."""

    path: Path

    @property
    def uri(self) -> str:
        """file:///…, percent-encoded."""
        return self.path.as_uri()

    @property
    def slide_id(self) -> str:
        """The slide's id unless another is stated. Looks up whether the path is a folder."""
        return slide_id_of(self.path)


@dataclass(frozen=True)
class ObjectPlace:
    """A slide in an S3 bucket."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """s3://bucket/key, the key as it is."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def slide_id(self) -> str:
        """The slide's id unless another is stated."""
        return slide_id_of(PurePosixPath(self.key))


Place = FilePlace | ObjectPlace


@dataclass(frozen=True)
class ObjectPrefix:
    """The objects of a bucket whose keys begin with `prefix`: "", or a text that ends in "/"."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        """Return "bucket/prefix/"."""
        return f"{self.bucket}/{self.prefix}"


def parse_uri(uri: str) -> Place:
    """Parse "file:///folder/a.svs" or "s3://bucket/key". Raises InvalidInputError("uri-invalid")."""
    if len(uri) > _MOST_CHARACTERS or not _is_text(uri):
        raise _invalid()
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return object_place(bucket, key)
    if not uri.startswith("file:/") or set(uri) & set("?#"):
        raise _invalid()
    host, slash, path = uri.removeprefix("file:").removeprefix("//").partition("/")
    raw = unquote_to_bytes(slash + path)
    if host not in ("", "localhost") or not slash or not _is_path(raw):
        raise _invalid()
    return FilePlace(_without_dots(os.fsdecode(raw)))


def object_place(bucket: str, key: str) -> ObjectPlace:
    """Name an object. Raises InvalidInputError("uri-invalid") for a bucket or key that cannot exist."""
    if not _BUCKET.fullmatch(bucket) or not is_s3_key(key):
        raise _invalid()
    return ObjectPlace(bucket, key)


def parse_prefix(text: str) -> Path | ObjectPrefix:
    """Parse what many slides may lie below: "/folder", "file:///folder", "s3://bucket[/prefix]".

    Raises InvalidInputError("uri-invalid").
    """
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").strip("/").partition("/")
        return ObjectPrefix(bucket, f"{prefix}/" if prefix else "")
    if text.startswith("file:"):
        place = parse_uri(text)
        assert isinstance(place, FilePlace)
        return place.path
    if "://" in text or not text:
        raise _invalid()
    return Path(text).absolute()


@dataclass(frozen=True)
class Roots:
    """The folders and buckets that slides may be taken from. `objects`: "bucket/" or "bucket/prefix/"."""

    folders: tuple[Path, ...] = ()
    objects: tuple[str, ...] = ()

    @classmethod
    def read(cls, texts: Iterable[str]) -> Roots:
        """Parse "/folder", "file:///folder", "s3://bucket" and "s3://bucket/prefix".

        Raises FatalError("settings-invalid").
        """
        try:
            prefixes = [parse_prefix(text) for text in texts]
        except InvalidInputError:
            raise FatalError(
                "settings-invalid",
                "HISTGEN_ROOTS holds an entry that is neither a folder nor an s3:// bucket.",
                hint='Separate folders and buckets by commas: "/scans,s3://lab/scans".',
            ) from None
        return cls(
            tuple(prefix for prefix in prefixes if isinstance(prefix, Path)),
            tuple(str(prefix) for prefix in prefixes if isinstance(prefix, ObjectPrefix)),
        )

    def require(self, place: Place) -> None:
        """Refuse a place outside the roots, wherever links lead: InvalidInputError("uri-outside-roots").

        A path that is not written as lying below a root is refused without any look-up, so neither the answer
        nor its timing reveals what exists there.
        """
        if isinstance(place, ObjectPlace):
            inside = any(f"{place.bucket}/{place.key}".startswith(root) for root in self.objects)
        else:
            inside = self._spell(place.path) and self._leads_inside(place.path)
        if not inside:
            raise _outside("This URI lies")

    def require_all_of(self, others: Roots) -> None:
        """Refuse roots that reach beyond these: as `require`."""
        objects = all(any(other.startswith(root) for root in self.objects) for other in others.objects)
        if not objects or not all(map(self._leads_inside, others.folders)):
            raise _outside("The requested folder or bucket lies")

    def require_part(self, path: Path) -> None:
        """Refuse a file that belongs to a slide, whether it exists or not: as `require`."""
        if not self._leads_inside(path):
            raise _part_outside()

    def judge(self, real: Path) -> None:
        """Refuse a file by its real path, as the system reports it, following no links: as `require`."""
        if not self._hold(real):
            raise _part_outside()

    def _spell(self, path: Path) -> bool:
        """Return whether a path begins like a root as stated, or like the path that it leads to."""
        return any(path.is_relative_to(folder) for folder in self.folders) or self._hold(path)

    def _hold(self, real: Path) -> bool:
        return any(real.is_relative_to(folder.resolve()) for folder in self.folders)

    def _leads_inside(self, path: Path) -> bool:
        try:
            return self._hold(path.resolve())
        except (OSError, RuntimeError, ValueError):  # circular links; a name longer than the system allows
            return False


def _without_dots(path: str) -> Path:
    """Resolve ".." as in a URI (RFC 3986, 5.2.4), so that what is checked is what is opened.

    Nothing is looked up: an answer would reveal what lies there, and a share that hangs gives none.
    """
    return Path(os.path.normpath("/" + path.lstrip("/")))


def _is_path(raw: bytes) -> bool:
    """Return whether a file with this path can exist at all."""
    longest = max(len(os.fsdecode(part)) for part in raw.split(b"/"))
    return b"\0" not in raw and len(raw) <= _MOST_PATH_BYTES and longest <= _MOST_PART_CHARACTERS


def _is_text(value: str) -> bool:
    """Return whether it is free of NUL and of lone surrogates: JSON can hold them, file systems cannot."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _part_outside() -> InvalidInputError:
    return _outside("The slide, or a file that belongs to it, lies")


def _outside(what: str) -> InvalidInputError:
    return InvalidInputError(
        "uri-outside-roots",
        f"{what} outside the folders and buckets that slides are taken from.",
        hint="Put the slide into one of HISTGEN_ROOTS, or add its folder or bucket there "
        "(histgen up --allow /folder --allow s3://bucket).",
    )


def _invalid() -> InvalidInputError:
    return InvalidInputError(
        "uri-invalid",
        "This is not the URI of a slide.",
        hint='Give "file:///folder/slide.svs" (percent-encoded) or "s3://bucket/key".',
    )
