"""Damage to stored objects."""

from __future__ import annotations

from histgen_lib.storage import ObjectStore

DAMAGE = ["missing", "empty", "truncated", "other JSON", "binary", "bit"]


def damage(data: bytes, how: str, store: ObjectStore | None = None, key: str = "") -> bytes | None:
    """Return the damaged bytes, or None if the object is gone; with `store`, damage the object there."""
    middle = len(data) // 2
    left = {
        "missing": None,
        "empty": b"",
        "truncated": data[:middle],
        "other JSON": b'{"other": [1, 2]}',
        "binary": bytes(range(256)),
        "bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[how]
    if store and left is None:
        store.delete(key)
    elif store:
        store.put(key, left or b"", if_absent=False)
    return left
