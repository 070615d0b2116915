"""Telling at the price of a few small reads whether a slide's files still are those that were read before.

A content id costs reading the whole slide. A fingerprint covers the files' sizes and samples of their bytes:
another scan of the same glass differs everywhere, so it differs in the samples too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from histgen_lib.files import sha256_hex
from histgen_lib.opening import open_ordinary

_SAMPLES, _SAMPLE_BYTES = 32, 4096

FileStates = tuple[tuple[str, int, int], ...]


def fingerprint_of(parts: Sequence[Path]) -> str:
    """Return 64 hexadecimal digits for the files of a slide; names and dates do not count. Raises OSError."""
    return sha256_hex("".join(sorted(_sampled(part) for part in parts)).encode())


def states_of(parts: Sequence[Path]) -> FileStates:
    """Return where each file really lies, its size (bytes) and its time of change (ns). Raises OSError.

    To be compared soon after: a link that leads elsewhere by then is a change.
    """
    found = [(os.path.realpath(part), part.stat()) for part in parts]
    return tuple((real, state.st_size, state.st_mtime_ns) for real, state in found)


def size_of(states: FileStates) -> int:
    """Return how many bytes the files have together."""
    return sum(size for _, size, _ in states)


def _sampled(part: Path) -> str:
    """SHA-256 of a file's size and of bytes spread evenly over it, its first and last among them."""
    with open_ordinary(part) as handle:
        size = handle.seek(0, 2)
        sha = hashlib.sha256(str(size).encode())
        last = max(0, size - _SAMPLE_BYTES)
        for place in sorted({last * index // (_SAMPLES - 1) for index in range(_SAMPLES)}):
            handle.seek(place)
            sha.update(handle.read(_SAMPLE_BYTES))
    return sha.hexdigest()
