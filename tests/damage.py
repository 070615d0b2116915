"""What time and people do to objects."""

from __future__ import annotations

from histgen_lib.storage import ObjectStore

DAMAGE = ["missing", "empty", "truncated", "other JSON", "binary", "bit"]


def damage(data: bytes, how: str, store: ObjectStore | None = None, key: str = "") -> bytes | None:
    """Return what damage leaves of an object, None for nothing; with `store`, do it to the object there."""
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
