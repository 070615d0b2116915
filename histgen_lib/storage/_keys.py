"""Which keys are valid: the same ones for every adapter."""

from __future__ import annotations

import unicodedata

from histgen_lib.errors import InvalidInputError
from histgen_lib.names import KEY_BYTES, UNFIT, is_s3_key

INCOMING = ".incoming"
"""No key starts with this part: the folder adapter keeps unfinished files there."""

_PART_BYTES = 255  # that of Linux' file systems


def check_key(key: str) -> str:
    """Return `key`. Raises InvalidInputError("object-key") if it is not valid."""
    if not is_key(key):
        raise bad_key()
    return key


def check_foreign_key(key: str) -> str:
    """Return `key`. Raises InvalidInputError("object-key") if no bucket of others can have it."""
    if not is_s3_key(key):
        raise bad_key()
    return key


def is_key(key: str) -> bool:
    """Return whether `key` may name an object."""
    parts = key.split("/")
    return (
        not any(unicodedata.category(sign) in UNFIT for sign in key)
        and len(key.encode()) <= KEY_BYTES
        and all(part not in ("", ".", "..") and len(part.encode()) <= _PART_BYTES for part in parts)
        and parts[0] != INCOMING
    )


def check_prefix(prefix: str) -> str:
    """Return `prefix`. Raises InvalidInputError("object-key") if no key can start with its whole parts."""
    folder = prefix.rpartition("/")[0]
    if "/" in prefix and not is_key(folder):
        raise bad_key()
    return prefix


def bad_key() -> InvalidInputError:
    """Make the error for a key that cannot be used. It does not repeat the key, which may hold anything."""
    return InvalidInputError(
        "object-key",
        "An object's key cannot be used.",
        hint='Parts between "/" may not be empty, "." or ".."; no control characters, no key below another.',
    )


def missing(key: str) -> InvalidInputError:
    """Make the error for an object that does not exist; `key` has been checked."""
    return InvalidInputError(
        "object-missing",
        f"The store has no object {key}.",
        hint="Replay the event that made it, or correct the key.",
    )
