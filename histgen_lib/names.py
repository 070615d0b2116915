"""Names that come from outside (files, their contents, S3): made safe for paths and keys, and for display.

Every path that contains such a name is made by `place_in`: no name leads out of its folder.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePath

from histgen_lib.files import sha256_hex

_MOST_NAME = 128
"""Characters of a slide's id that the gateway accepts from a caller."""

KEY_BYTES = 1024
"""S3's own limit."""
UNFIT = frozenset({"Cc", "Cs"})
"""Unicode categories that no key may have: control characters (XML listings cannot hold them), surrogates."""

OBEYED = frozenset(
    chr(code)
    for first, last in ((0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069))
    for code in range(first, last + 1)
)
"""Characters above U+001F that a terminal obeys: control characters (U+009B starts commands as ESC does),
line separators, and direction marks, which can make a name look like another."""
_ESCAPED = re.compile(f"[{''.join(sorted(OBEYED))}\ud800-\udfff]")

_MOST_SHOWN = 1200
"""Characters of a name that are shown: enough for any bucket and key."""

_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
"""The ids that events allow; see `histgen_lib.events`."""


def safe_name(name: str) -> str:
    """Return `name` with everything but ASCII letters, digits, `.`, `_` and `-` replaced by `_`.

    Where letters of other scripts, or the end of a very long name, are lost, a digest is appended: two such
    names stay different. The result does not depend on whether accents are encoded as on macOS or as on
    Windows.
    """
    name = unicodedata.normalize("NFC", name)
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".")
    if len(kept) > _MOST_NAME or any(map(_is_letter_elsewhere, name)):
        digest = sha256_hex(_bytes(name))[:8]
        return f"{kept[: _MOST_NAME - 9].strip('._-') or 'slide'}-{digest}"
    return kept or "slide"


def safe_id(name: str) -> str:
    """Return an id that may be part of a path: `name` itself if it is one already, else its `safe_name`."""
    return name if _ID.fullmatch(name) else safe_name(name)


def slide_id_of(place: str | PurePath) -> str:
    """Return the id of the slide at a path, URI or key, for use unless another is stated.

    It is the name without its suffix, or the whole name of a folder, made safe. A `PurePath` is not looked up
    on disk.
    """
    path = Path(place) if isinstance(place, str) else place
    is_folder = isinstance(path, Path) and path.is_dir()
    return safe_name(path.name if is_folder else path.stem)


def place_in(folder: Path, name: str, suffix: str = "") -> Path:
    """Return the path directly in `folder` for `name`, whatever characters it has."""
    return folder / f"{safe_id(name)}{suffix}"


def is_s3_key(key: str) -> bool:
    """Return whether `key` may name an object in someone else's bucket: what S3 allows, with two exceptions.

    Not allowed are "." and ".." parts, which some servers and proxies resolve, so that no prefix would be a
    barrier; and control characters, which logs and terminals do not show as they are.
    """
    return (
        not any(unicodedata.category(sign) in UNFIT for sign in key)
        and 1 <= len(key.encode()) <= KEY_BYTES
        and not {".", ".."} & set(key.split("/"))
    )


def printable(text: str) -> str:
    """Return a name for display: what a terminal would obey is escaped, and a very long name is cut."""
    cut = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in cut
    )


def harmless_json(text: str) -> str:
    """Escape in JSON text what a terminal would obey, and lone surrogates; the JSON means the same."""
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _bytes(name: str) -> bytes:
    try:
        return name.encode(errors="surrogateescape")  # of a file name that is not text: as on disk
    except UnicodeEncodeError:
        return name.encode(errors="surrogatepass")


def _is_letter_elsewhere(char: str) -> bool:
    """Return whether a name would lose a letter with it: not a space, mark or symbol, but a stray byte."""
    return not char.isascii() and unicodedata.category(char)[0] not in "ZPS"
