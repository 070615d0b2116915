"""Names that come from elsewhere (files, what is inside of them, S3): as parts of paths and keys, and shown.

Whatever becomes a path is made here, by `place_in`: no name leads out of its folder.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from histgen_lib.files import sha256_hex

_MOST_NAME = 128
"""Characters of a slide's id, as the gateway takes them from those who state one."""

KEY_BYTES = 1024
"""S3's own limit."""
UNFIT = frozenset({"Cc", "Cs"})
"""Signs that no key may have: control characters (no XML listing can hold them), halves of characters."""

OBEYED = frozenset(
    chr(code)
    for first, last in ((0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069))
    for code in range(first, last + 1)
)
"""Signs above U+001F that a terminal obeys: control characters (U+009B begins commands as ESC does), ends of
lines, and what turns the direction of a line, so that a name looks like another."""
_ESCAPED = re.compile(f"[{''.join(sorted(OBEYED))}\ud800-\udfff]")

_MOST_SHOWN = 1200
"""Characters of a name that is shown: enough for every bucket and key."""

_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
"""What events allow as an id; see `histgen_lib.events`."""


def safe_name(name: str) -> str:
    """Return `name` with everything but ASCII letters, digits, `.`, `_` and `-` replaced by `_`.

    Letters of other scripts that are lost so, and the end of a very long name, are made up for by a digest:
    two such names stay two. A name is the same whether its accents are written as macOS or as Windows does.
    """
    name = unicodedata.normalize("NFC", name)
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".")
    if len(kept) > _MOST_NAME or any(map(_is_letter_elsewhere, name)):
        digest = sha256_hex(_bytes(name))[:8]
        return f"{kept[: _MOST_NAME - 9].strip('._-') or 'slide'}-{digest}"
    return kept or "slide"


def safe_id(name: str) -> str:
    """Return an id that may be part of a path: `name` itself if it is one already, else `safe_name`'s."""
    return name if _ID.fullmatch(name) else safe_name(name)


def place_in(folder: Path, name: str, suffix: str = "") -> Path:
    """Return the path directly in `folder` that belongs to `name`, whatever is in it."""
    return folder / f"{safe_id(name)}{suffix}"


def is_s3_key(key: str) -> bool:
    """Say whether `key` may name an object of someone else's bucket: what S3 allows, but for two things.

    "." and ".." parts, which some servers and proxies resolve, so that no prefix would be a wall; control
    characters, which no log or terminal shows as they are.
    """
    return (
        not any(unicodedata.category(sign) in UNFIT for sign in key)
        and 1 <= len(key.encode()) <= KEY_BYTES
        and not {".", ".."} & set(key.split("/"))
    )


def printable(text: str) -> str:
    """Return a name for people: what a terminal would obey is escaped, and what has no end is cut."""
    cut = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in cut
    )


def harmless_json(text: str) -> str:
    """Escape in JSON text what a terminal would obey, and halves of characters; it means the same."""
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _bytes(name: str) -> bytes:
    try:
        return name.encode(errors="surrogateescape")  # of a file's name that is no text: as the disk has it
    except UnicodeEncodeError:
        return name.encode(errors="surrogatepass")


def _is_letter_elsewhere(char: str) -> bool:
    """Whether a name would lose a letter with it: no blank, mark or symbol; also bytes that are no text."""
    return not char.isascii() and unicodedata.category(char)[0] not in "ZPS"
