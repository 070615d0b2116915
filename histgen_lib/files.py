"""Files written all or nothing, digests, canonical and sealed JSON, and text in any Unicode encoding."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_SEAL = "seal"
_HEX_DIGITS = 64
_UMASK = threading.Lock()


@contextmanager
def atomic_path(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed over `path`.

    On an exception the temporary file is removed and `path` is untouched. Missing parent folders are created.
    `mode`: the file's mode, whatever was there before; by the umask if None. Until then only its owner can
    read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~umask() if mode is None else mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write `data` to `path`, all or nothing; `mode` as for `atomic_path`."""
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`: at the end it replaces `folder`, on an error it is deleted."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        inner = Path(scratch) / "model"  # a temporary folder itself is private to this user
        inner.mkdir()
        yield inner
        inner.replace(folder)


def canonical_json(value: Any) -> bytes:
    """Return UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def indented_json(value: Any) -> bytes:
    """Return UTF-8 JSON for people: indented, ending in a line break. ValueError for NaN and infinity."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return canonical JSON with the SHA-256 of all the rest under "seal": damage shows when it is read."""
    return canonical_json({**value, _SEAL: json_digest(value)})


def unsealed(data: bytes) -> Any:
    """Read JSON, and drop its seal. Raises ValueError for what is not JSON or does not match its seal.

    JSON without a seal is read as it is: earlier versions wrote none.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        return value
    if _SEAL not in value and not any(_seals(value, name) for name in value):
        return value
    if not _seals(value, _SEAL):
        raise ValueError("the seal is broken")
    return {name: one for name, one in value.items() if name != _SEAL}


def unsealed_object(data: bytes | None) -> dict[str, Any]:
    """Read a JSON object as `unsealed` does; return {} for anything else, and for None."""
    try:
        value = unsealed(data or b"")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seals(value: Mapping[str, Any], name: str) -> bool:
    """Whether one part of a JSON object is the digest of all the rest; damage may have renamed it."""
    seal = value.get(name)
    if not isinstance(seal, str) or len(seal) != _HEX_DIGITS:
        return False
    return seal == json_digest({other: value[other] for other in value if other != name})


def decode_text(data: bytes) -> str:
    """Decode text as other programs save it: by its byte order mark, which is dropped, else as UTF-8.

    Raises UnicodeDecodeError.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode("utf-8")


def each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of distinct names (an `object_pairs_hook`): of two equal ones JSON defines neither.

    Raises ValueError, which does not repeat the name: it may be anybody's words.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an entry has the same name twice")
    return found


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON as 64 hexadecimal digits."""
    return sha256_hex(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def umask() -> int:
    """Return the umask of this process.

    The system tells it in /proc. Elsewhere it is read by setting it, which no two threads may do at a time:
    the later one would put back the other's, for good.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    with _UMASK:
        current = os.umask(0o077)  # for a moment files of other threads are private
        os.umask(current)
        return current
