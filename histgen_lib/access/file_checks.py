"""Whether a slide's files are what was announced, and stay so while they are read.

A content id costs reading the whole slide. A fingerprint covers the files' sizes and samples of their bytes,
for the price of a few small reads: another scan of the same glass differs everywhere, so it differs there
too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_hex
from histgen_lib.opening import open_ordinary
from histgen_lib.slides.limits import require_bytes
from histgen_lib.slides.source import content_id_of, stored_in

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
