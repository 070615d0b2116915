"""Names that others gave: what the key of an S3 object may be, and how a name is shown to people."""

from __future__ import annotations

import unicodedata

KEY_BYTES = 1024
"""S3's own limit."""
UNFIT = frozenset({"Cc", "Cs"})
"""Signs that no key may have: control characters (no XML listing can hold them), halves of characters."""

_MOST_SHOWN = 1200
"""Characters of a name that is shown: enough for every bucket and key."""


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
